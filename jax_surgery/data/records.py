# SPDX-License-Identifier: Apache-2.0
"""What a role's text is before any tokenizer has seen it: records, and their fields.

A record has exactly the fields of one form, and may have an `id`:

    text               all of it is learned
    prompt, answer     the two are joined as they stand; only the answer is learned
    question, answer   rendered as a chat (or as "Question: ...\\nAnswer: ..." where
                       the tokenizer has no chat template); only the answer is learned
    messages           a chat of {"role", "content"}; only what the assistant says is
                       learned

`sources.py` reads records from files and data sets.
"""

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

Form = Literal["text", "prompt", "question", "messages"]

FORMS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "prompt": ("prompt", "answer"),
    "question": ("question", "answer"),
    "messages": ("messages",),
}
FIELDS = ("text", "prompt", "question", "answer", "messages", "id")
CHAT_ROLES = ("system", "user", "assistant")
FORMS_HELP = "text; prompt and answer; question and answer; or messages"


@dataclasses.dataclass(frozen=True)
class Record:
    """One text to learn or unlearn.

    Attributes:
      form: which fields it was made of, "text", "prompt", "question" or "messages".
      parts: (field, text) in order, e.g. (("prompt", ...), ("answer", ...)); for
        messages (chat role, content).
      origin: where it stands, e.g. "file.jsonl:12".
    """

    form: Form
    parts: tuple[tuple[str, str], ...]
    origin: str

    @property
    def text(self) -> str:
        """All its text, in order, whatever its form."""
        return " ".join(text for _, text in self.parts)


def normalise(text: str) -> str:
    """The text under which two records count as the same.

    Unicode NFKC, lower case, every run of white space one space.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"\s+", " ", folded).strip()


def nearest(name: str, names: tuple[str, ...]) -> str:
    """ " (did you mean 'x'?)" for a mistyped name, or ""."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check_string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"field {field!r} is {type(value).__name__} {value!r:.60}; it must be text."
        )
    if not value.strip():
        raise ValueError(f"field {field!r} is empty; give it text or leave it out.")
    return value


def _message_part(message: Any, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        got = (
            sorted(message) if isinstance(message, Mapping) else type(message).__name__
        )
        raise ValueError(
            f"message {number} must have exactly the fields role and content; got {got}."
        )
    role = message["role"]
    if role not in CHAT_ROLES:
        hint = nearest(str(role), CHAT_ROLES)
        raise ValueError(
            f"message {number} has role {role!r}{hint}; use one of "
            f"{', '.join(CHAT_ROLES)}."
        )
    return role, _check_string(message["content"], f"content of message {number}")


def _message_parts(messages: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, list | tuple):
        raise ValueError(
            f"field 'messages' is {type(messages).__name__}; it must be a list of "
            '{"role", "content"} objects.'
        )
    parts = tuple(_message_part(m, i) for i, m in enumerate(messages, start=1))
    if not any(role == "assistant" for role, _ in parts):
        raise ValueError(
            "field 'messages' has no assistant message; only what the assistant says "
            "is learned, so there must be at least one."
        )
    return parts


def _form(fields: set[str]) -> Form:
    """The form whose fields these are."""
    for name in sorted(fields - set(FIELDS)):
        raise ValueError(
            f"unknown field {name!r}{nearest(name, FIELDS)}; a record has {FORMS_HELP} "
            "(and may have an id)."
        )
    given = fields - {"id"}
    for form, names in FORMS.items():
        if given == set(names):
            return form
    raise ValueError(
        f"has the fields {', '.join(sorted(fields)) or 'none'}; a record has exactly "
        f"{FORMS_HELP} (and may have an id)."
    )


def make_record(fields: Any, origin: str) -> Record:
    """Checks one JSON object's fields and makes it a record.

    Raises:
      ValueError: not an object, an unknown or missing field, a field of another type,
        or an empty text. The message does not repeat `origin`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"is {type(fields).__name__}; a record is a JSON object with {FORMS_HELP}."
        )
    form = _form(set(fields))
    if not isinstance(fields.get("id", ""), str | int):
        raise ValueError(
            f"field 'id' is {type(fields['id']).__name__}; use text or a whole number."
        )
    if form == "messages":
        return Record(form, _message_parts(fields["messages"]), origin)
    parts = tuple((name, _check_string(fields[name], name)) for name in FORMS[form])
    return Record(form, parts, origin)
