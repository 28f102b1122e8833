# SPDX-License-Identifier: Apache-2.0
"""Finds what two roles of a run both learn: the same answer to the same question.

Compared is what is learned, given its prompt, whatever the form of the record: a question
and its answer, a chat with or without a system message, and a prompt that was rendered
before with the model's chat template are the same. Case and white space are not compared.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax_surgery.data.forms import QUESTION_PROMPT, Record, normalised
from jax_surgery.data.template_marks import Marks, marks_of

# What is said before an answer, and the answer; texts alone stand after nothing.
Key = tuple[str, str]


class Shared(NamedTuple):
    """Where two records stand of which one learns what the other does."""

    place: str
    other: str

    def __str__(self) -> str:
        return f"{self.place} = {self.other}"


_QUESTION = re.compile(
    re.escape(QUESTION_PROMPT).replace(r"\{question\}", "(.*)"), re.DOTALL
)


def keys(record: Record, marks: Marks | None) -> list[Key]:
    """What a record has a model learn: all that it says as a text, and each answer with
    what is said before it.

    Args:
      marks: what the tokenizer's chat template writes; None where there is none.
    """
    return [_key([], record.text), *_answers(record, marks)]


def _answers(record: Record, marks: Marks | None) -> list[Key]:
    if record.messages:
        turns = [(role, said or "") for role, said in record.messages]
        said = [(role, content) for role, content in turns if role != "system"]
        return [
            _key([before for _, before in said[:place]], content)
            for place, (role, content) in enumerate(said)
            if role == "assistant" and content.strip()
        ]
    if record.question:
        return [_key([record.question], record.answer)]
    text = record.prompt + record.answer
    if marks and marks.is_chat(text):
        *before, answer = marks.said(text)
        return [_key(before, answer)]
    if asked := _QUESTION.fullmatch(record.prompt):
        return [_key([asked[1]], record.answer)]
    return [_key([record.prompt], record.answer)] if record.prompt else []


def _key(before: Iterable[str], answer: str) -> Key:
    return normalised("\n".join(before)), normalised(answer)


def find_each(
    several: Sequence[Sequence[Record]],
    others: Sequence[Record],
    tokenizer: Any = None,
) -> list[list[Shared]]:
    """Of each of several lots of records those of which one of the others learns the
    same.

    The others, which are most of the text, are gone through once, and nothing is kept of
    them but what is sought.

    Args:
      tokenizer: of the model, with whose chat template prompts may have been rendered;
        None compares them as they stand.
    """
    if not others or not any(several):
        return [[] for _ in several]
    marks = marks_of(tokenizer) if tokenizer is not None else None
    sought = [[keys(record, marks) for record in some] for some in several]
    places: dict[Key, str | None] = {
        k: None for lot in sought for own in lot for k in own
    }
    for record in others:
        for key in keys(record, marks):
            if key in places:
                places[key] = record.origin
    found: list[list[Shared]] = []
    for some, lot in zip(several, sought, strict=True):
        found.append([])
        for record, own in zip(some, lot, strict=True):
            there = [place for key in own if (place := places[key]) is not None]
            if there:
                found[-1].append(Shared(record.origin, there[0]))
    return found


def find(
    some: Sequence[Record], others: Sequence[Record], tokenizer: Any = None
) -> list[str]:
    """Where records stand of which another learns the same, as "PLACE = PLACE" (see
    `find_each`)."""
    return [str(shared) for shared in find_each([some], others, tokenizer)[0]]


def any_rendered(records: Iterable[Record], tokenizer: Any) -> bool:
    """Whether a record is a chat that the tokenizer's template has rendered before: of
    such alone a comparison with the tokenizer finds what one without it does not."""
    marks = marks_of(tokenizer)
    return marks is not None and any(
        marks.is_chat(record.prompt + record.answer) for record in records
    )
