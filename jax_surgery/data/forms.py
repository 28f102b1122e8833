# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: TRY004, a bad row is a ValueError whatever is wrong with it
"""What a record is: its four forms, and the check of its fields.

    {"text": ...}                       all of it is learned
    {"prompt": ..., "answer": ...}      the answer, which follows the prompt as it is
    {"question": ..., "answer": ...}    the answer; rendered as a chat where the
                                        tokenizer has a chat template, else as
                                        "Question: ...\\nAnswer: ..."
    {"messages": [{"role", "content"}]} what the assistant says, in the tokenizer's
                                        chat template

An `id` may stand beside them, and beside an answer an `alternative`: another answer,
which methods of pairs (DPO) prefer to it. Any other field is an error.
"""

import dataclasses
import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

FORMS = (("text",), ("prompt", "answer"), ("question", "answer"), ("messages",))
BESIDE = ("id", "alternative")
FIELDS = ("text", "prompt", "question", "answer", "messages", *BESIDE)
FORMS_HELP = "text | prompt and answer | question and answer | messages"
CHAT_ROLES = ("system", "user", "assistant")
QUESTION_PROMPT = "Question: {question}\nAnswer:"


@dataclasses.dataclass(frozen=True)
class Record:
    """One text to learn from.

    Attributes:
      prompt: read but not learned ("" for a plain text).
      answer: learned (a plain text is all answer).
      messages: (role, content) of a conversation instead of prompt and answer, or ().
      origin: where it stands, e.g. "facts.jsonl:12".
      question: the bare question where the record has one; prompt and answer then
        are how it reads without a chat template.
      alternative: another answer, as `answer` is written; "" where there is none.
    """

    prompt: str
    answer: str
    messages: tuple[tuple[str, str], ...]
    origin: str
    question: str = ""
    alternative: str = ""

    @property
    def text(self) -> str:
        """All that the record says."""
        if self.messages:
            return "\n".join(content for _, content in self.messages)
        if self.question:
            return f"{self.question}\n{self.answer}"
        return self.prompt + self.answer


def normalised(text: str) -> str:
    """The text as compared for overlap: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def hint(name: Any, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for a mistyped name, "" where none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _form(row: Mapping[str, Any]) -> tuple[str, ...]:
    fields = set(map(str, row)) - set(BESIDE)
    for form in FORMS:
        if fields == set(form):
            return form
    unknown = sorted(fields - set(FIELDS))
    if unknown:
        raise ValueError(
            f"unknown field {unknown[0]!r}{hint(unknown[0], FIELDS)}; a record has "
            f"{FORMS_HELP} (and may have an id, or an alternative beside an answer)"
        )
    raise ValueError(
        f"fields {', '.join(sorted(fields)) or 'none'} make no record; use {FORMS_HELP}"
    )


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    return value


def _turn(message: Any, name: str) -> tuple[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        mapping = isinstance(message, Mapping)
        got = ", ".join(map(str, message)) if mapping else type(message).__name__
        raise ValueError(
            f"{name} must have exactly the fields role and content, got {got}"
        )
    role = message["role"]
    if role not in CHAT_ROLES:
        raise ValueError(
            f"{name} has role {role!r}{hint(role, CHAT_ROLES)}; use one of "
            f"{', '.join(CHAT_ROLES)}"
        )
    return role, _string(message["content"], f"the content of {name}")


def _turns(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(
            "messages must be a list of objects with role and content, got "
            f"{type(value).__name__}"
        )
    turns = tuple(_turn(turn, f"message {i}") for i, turn in enumerate(value, start=1))
    if not any(role == "assistant" for role, _ in turns):
        raise ValueError("no assistant turn, so nothing to learn")
    return turns


def parse_record(row: Any, origin: str) -> Record:
    """One row as a record.

    Raises:
      ValueError: says what is wrong: not an object, an unknown or missing field, a field
        of another type, or an empty text.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a record is a JSON object, got {type(row).__name__}")
    form = _form(row)
    if not isinstance(row.get("id", ""), str | int):
        raise ValueError("id must be a string or a whole number")
    if "alternative" in row and "answer" not in form:
        raise ValueError("alternative is allowed only together with answer")
    if form == ("messages",):
        return Record("", "", _turns(row["messages"]), origin)
    texts = {
        name: _string(row[name], name) for name in (*form, "alternative") if name in row
    }
    if form == ("text",):
        return Record("", texts["text"], (), origin)
    other = texts.get("alternative", "")
    if form == ("prompt", "answer"):
        return Record(texts["prompt"], texts["answer"], (), origin, "", other)
    question, answer = texts["question"].strip(), texts["answer"].strip()
    prompt = QUESTION_PROMPT.format(question=question)
    other = f" {other.strip()}" if other else ""
    return Record(prompt, f" {answer}", (), origin, question, other)
