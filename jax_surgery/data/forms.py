# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: TRY004, a bad row is a ValueError whatever is wrong with it
"""What a record is: its four forms, and the check of its fields.

    {"text": ...}                       all of it is learned
    {"prompt": ..., "answer": ...}      the answer, which follows the prompt as it is
    {"question": ..., "answer": ...}    the answer; rendered as a chat where the
                                        tokenizer has a chat template, else as
                                        "Question: ...\\nAnswer: ..."
    {"messages": [{"role", "content"}]} what the assistant says, in the tokenizer's
                                        chat template (see `turns` for its other forms)

An `id` may stand beside them, and beside an answer an `alternative`: another answer,
which methods of pairs (DPO) prefer to it. Any other field is an error.
"""

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

from jax_surgery.data.turns import hint, string, turns_of, without_nulls

FORMS = (
    ("text",),
    ("prompt", "answer"),
    ("question", "answer"),
    ("messages",),
    ("conversations",),
)
BESIDE = ("id", "alternative")
FIELDS = tuple(dict.fromkeys((*sum(FORMS, ()), *BESIDE)))
FORMS_HELP = "text | prompt and answer | question and answer | messages"
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
      further: of each message its fields beside role and content, which the chat
        template reads (name, tool_calls, tool_call_id); () where none has any.
      stream: of its role that it belongs to (see `data.streams`), from 0.
    """

    prompt: str
    answer: str
    messages: tuple[tuple[str, str], ...]
    origin: str
    question: str = ""
    alternative: str = ""
    further: tuple[Mapping[str, Any], ...] = ()
    stream: int = 0

    @property
    def text(self) -> str:
        """All that the record says."""
        if self.messages:
            return "\n".join(content for _, content in self.messages)
        if self.question:
            return f"{self.question}\n{self.answer}"
        return self.prompt + self.answer

    @property
    def said(self) -> str:
        """What is learned last: the answer, or the assistant's last message."""
        by_assistant = [c for role, c in self.messages if role == "assistant" and c]
        return by_assistant[-1] if by_assistant else self.answer


def normalised(text: str) -> str:
    """The text as compared for overlap: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


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
        f"fields {', '.join(sorted(fields)) or 'none'} make no record (null counts as "
        f"left out); use {FORMS_HELP}"
    )


def parse_record(row: Any, origin: str) -> Record:
    """One row as a record.

    Raises:
      ValueError: says what is wrong: not an object, an unknown or missing field, a field
        of another type, or an empty text.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a record is a JSON object, got {type(row).__name__}")
    row = without_nulls(row)
    form = _form(row)
    if not isinstance(row.get("id", ""), str | int):
        raise ValueError("id must be a string or a whole number")
    if "alternative" in row and "answer" not in form:
        raise ValueError("alternative is allowed only together with answer")
    if form in (("messages",), ("conversations",)):
        turns, further = turns_of(row[form[0]])
        return Record("", "", turns, origin, further=further)
    texts = {
        name: string(row[name], name) for name in (*form, "alternative") if name in row
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
