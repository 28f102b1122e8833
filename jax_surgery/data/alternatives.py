# SPDX-License-Identifier: Apache-2.0
"""Wrong answers to questions that have none of their own: right answers to similar ones.

"What is the capital of Egypt?" is asked with the capitals that other questions ask for,
since these questions share most of its words; so the wrong answers are of its kind.
"""

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from jax_surgery.data.asked import Asked
from jax_surgery.data.forms import Record
from jax_surgery.data.same_fact import plain, subject_words


class Choice(NamedTuple):
    """A question with a right answer and wrong ones.

    Attributes:
      group: of the question.
      records: the question with each answer, the right one first.
    """

    group: str
    records: tuple[Record, ...]


def _answered(record: Record, answer: str, place: str) -> Record:
    """The record with another answer, written where and as its own is."""
    if not record.messages:
        space = " " if record.answer[:1].isspace() else ""
        return dataclasses.replace(record, answer=space + answer, origin=place)
    turns = list(record.messages)
    last = max(
        i for i, (role, said) in enumerate(turns) if role == "assistant" and said
    )
    turns[last] = ("assistant", answer)
    return dataclasses.replace(record, messages=tuple(turns), origin=place)


def _wrong(
    one: Asked, others: Sequence[Asked], holders: Mapping[str, int]
) -> list[str]:
    """Answers to other facts' questions, those of the most similar questions first; of a
    new answer the one that it replaces before them, of an old one no new ones.

    Args:
      holders: how many questions hold each word: rare words make questions alike.
    """
    words = subject_words(one.question)
    weight = lambda some: sum(1 / holders[word] for word in some)
    likeness: dict[str, float] = {}
    replaced = []
    for other in others:
        answer = other.names[0]
        if one.kind == "unlearn" and other.kind == "update":
            continue
        if other.fact == one.fact:
            if one.kind == "update" and answer not in one.new:
                replaced.append(answer)
        else:
            theirs = subject_words(other.question)
            alike = weight(words & theirs) / (weight(words | theirs) or 1)
            likeness[answer] = max(likeness.get(answer, 0.0), alike)
    ranked = sorted(likeness, key=lambda answer: (-likeness[answer], answer))
    return [*replaced, *ranked]


def choices(
    asked: Sequence[Asked], groups: Collection[str], most: int, options: int = 4
) -> list[Choice]:
    """Some of the questions with alternatives, one question a fact.

    Args:
      asked: all questions, whose answers are the alternatives.
      groups: those whose questions are asked so.
      most: questions of a group.
      options: answers of a question, at most; a question without a wrong one is left out.
    """
    named = [one for one in asked if one.names]
    questions = {plain(one.question): subject_words(one.question) for one in named}
    holders = collections.Counter(w for words in questions.values() for w in words)
    done: dict[str, set[int]] = collections.defaultdict(set)
    found = []
    for one in (one for one in named if one.group in groups):
        if one.fact in done[one.group] or len(done[one.group]) == most:
            continue
        right, wrong = one.names[0], []
        known = [plain(name) for name in one.names]
        for answer in _wrong(one, named, holders):
            text = plain(answer)
            if len(wrong) < options - 1 and not any(
                text in k or k in text for k in known
            ):
                known.append(text)
                wrong.append(answer)
        if wrong:
            done[one.group].add(one.fact)
            place = f"{one.group}:{len(found)}"
            records = [
                _answered(one.record, answer, f"{place}:{i}")
                for i, answer in enumerate((right, *wrong))
            ]
            found.append(Choice(one.group, tuple(records)))
    return found
