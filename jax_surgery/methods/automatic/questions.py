# SPDX-License-Identifier: Apache-2.0
"""The question that a record asks, whatever the record's form, and the same record with
another question and answer."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from jax_surgery.data import template_marks, tokens
from jax_surgery.data.forms import QUESTION_PROMPT, Record

# What stands before a question in a prompt, such as "Question: " or "Q: ".
_LABEL = re.compile(r"^[^\W\d_]{1,12}:\s+")
_LEAST_WORDS = 3  # of the line of a prompt that is taken for its question


@dataclasses.dataclass(frozen=True)
class Asked:
    """A record's question.

    Attributes:
      record: that asks it.
      question: what a user asks: the question of the record, the only message of its
        user, or what of its prompt differs between questions.
      before, after: what stands around it in the record's prompt; "" elsewhere.
    """

    record: Record
    question: str
    before: str = ""
    after: str = ""

    def other(self, question: str, answer: str, origin: str) -> Record:
        """The record with another question and answer, written in the same way."""
        record, answer = self.record, answer.strip()
        if record.question:
            prompt = QUESTION_PROMPT.format(question=question)
            return Record(prompt, f" {answer}", (), origin, question)
        if record.messages:
            turns = list(record.messages)
            turns[-2:] = [(turns[-2][0], question), (turns[-1][0], answer)]
            further = record.further
            return Record("", "", tuple(turns), origin, further=further)
        space = re.match(r"\s*", record.answer)
        joined = f"{space.group() if space else ''}{answer}"
        return Record(f"{self.before}{question}{self.after}", joined, (), origin)


def of(record: Record, tokenizer: Any) -> Asked | None:
    """The question of a record; None of a plain text or a longer conversation."""
    if record.question:
        return Asked(record, record.question)
    if record.messages:
        roles = [role for role, _ in record.messages]
        alone = roles[-2:] == ["user", "assistant"] and roles.count("user") == 1
        asked = record.messages[-2][1].strip() if alone else ""
        return Asked(record, asked) if asked and not any(record.further) else None
    if not record.prompt.strip():
        return None
    return _of_prompt(record, template_marks.marks_of(tokenizer))


def _of_prompt(record: Record, marks: template_marks.Marks | None) -> Asked:
    prompt = record.prompt
    if marks and marks.is_prompt(prompt):
        said = next(filter(str.strip, reversed(marks.said(prompt))), "")
    else:
        lines = [x for x in prompt.split("\n") if len(x.split()) >= _LEAST_WORDS]
        line = lines[-1] if lines else prompt.strip("\n").split("\n")[-1]
        said = line[label.end() :] if (label := _LABEL.match(line)) else line
    said = said.strip()
    place = prompt.rfind(said)
    return Asked(record, said, prompt[:place], prompt[place + len(said) :])


def prompts(asked: Sequence[Asked], tokenizer: Any) -> list[list[int]]:
    """The tokens after which a model answers, as it learns and is asked them elsewhere."""
    answered = [one.other(one.question, "A", one.record.origin) for one in asked]
    documents = tokens.encode_whole(answered, tokenizer)
    return [document.prompt.tolist() for document in documents]
