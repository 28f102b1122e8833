# SPDX-License-Identifier: Apache-2.0
"""Finds what two roles of a run both learn: the same answer to the same question.

Compared is what is learned, given its prompt, whatever the form of the record: a question
and its answer, a chat with or without a system message, and a prompt that was rendered
before with the model's chat template are the same. Case and white space are not compared.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from jax_surgery.data.forms import QUESTION_PROMPT, Record, normalised
from jax_surgery.data.template_marks import Marks, marks_of

# What is said before an answer, and the answer; texts alone stand after nothing.
Key = tuple[str, str]

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


def find(
    some: Sequence[Record], others: Sequence[Record], tokenizer: Any = None
) -> list[str]:
    """Where records stand of which another learns the same, as "PLACE = PLACE".

    Args:
      tokenizer: of the model, with whose chat template prompts may have been rendered;
        None compares them as they stand.
    """
    marks = marks_of(tokenizer) if tokenizer is not None else None
    known = {key: record.origin for record in others for key in keys(record, marks)}
    found = []
    for record in some:
        there = [known[key] for key in keys(record, marks) if key in known]
        if there:
            found.append(f"{record.origin} = {there[0]}")
    return found
