# SPDX-License-Identifier: Apache-2.0
"""Wrong answers to questions that have none of their own.

"What is the capital of Egypt?" is asked with the capitals that other questions ask for,
whose words it shares, and with packaged names of the kind of its answer, such as cities. Of
these the model before the run says which are likely, and some of the likeliest are drawn:
were the wrong answers of another kind than the right one, who never knew it would choose it
all the same, and were they the likeliest of all, too seldom.
"""

import collections
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jax_surgery.data.asked import Asked
from jax_surgery.data.forms import Record
from jax_surgery.data.same_fact import plain, subject_words

ALIKE = 12  # answers to similar questions that are candidates, and
OF_KIND = 20  # packaged names, at most
LIKELY = 8  # candidates that are drawn from
# Of questions with several answers each, the places of the answers, the likeliest first.
Ranks = Callable[[Sequence[Sequence[Record]]], Sequence[Sequence[int]]]


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
) -> tuple[list[str], list[str]]:
    """What a new answer replaces, and answers to other facts' questions, those of the most
    similar questions first; of an old answer's question no new ones.

    Args:
      holders: how many questions hold each word: rare words make questions alike.
    """
    words = subject_words(one.question)
    # Exact, so that likeness does not depend on the order of a set.
    weight = lambda some: math.fsum(1 / holders[word] for word in some)
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
    return replaced, ranked


def _of_kind(answer: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Packaged names of the kinds that an answer is of, evenly from all of them."""
    kinds = [some for some in names.values() if answer in map(plain, some)]
    found = [name for some in kinds for name in some]
    return found[:: -(-len(found) // OF_KIND) or 1]


def _unlike(candidates: Iterable[str], known: list[str], most: int) -> list[str]:
    """The first candidates that are neither part of a known answer nor hold one."""
    found: list[str] = []
    for answer in candidates:
        text = plain(answer)
        if len(found) < most and not any(text in k or k in text for k in known):
            known.append(text)
            found.append(answer)
    return found


def choices(
    asked: Sequence[Asked],
    most: Mapping[str, int],
    names: Mapping[str, Sequence[str]],
    ranks: Ranks,
    options: int = 4,
) -> list[Choice]:
    """Some of the questions with alternatives, one question a fact.

    Args:
      asked: all questions, whose answers are candidates.
      most: of each group whose questions are asked so, how many at most.
      names: packaged ones by kind (`general.names`).
      ranks: says which candidates the model finds likely.
      options: answers of a question, at most; a question without a wrong one is left out.
    """
    named = [one for one in asked if one.names]
    questions = {plain(one.question): subject_words(one.question) for one in named}
    holders = collections.Counter(w for words in questions.values() for w in words)
    done: dict[str, set[int]] = collections.defaultdict(set)
    chosen: list[tuple[Asked, list[str], list[str]]] = []
    for one in named:
        facts = done[one.group]
        if one.fact in facts or len(facts) >= most.get(one.group, 0):
            continue
        # A new answer is no wrong one where an old one is asked for.
        known = [plain(name) for name in (*one.names, *one.new)]
        replaced, alike = _wrong(one, named, holders)
        first = _unlike(replaced, known, options - 1)
        others = _unlike(alike, known, ALIKE)
        others += _unlike(_of_kind(plain(one.names[0]), names), known, OF_KIND)
        if first or others:
            facts.add(one.fact)
            chosen.append((one, first, others))
    ranked = ranks(
        [
            [
                _answered(one.record, answer, f"{number}:{i}")
                for i, answer in enumerate(others)
            ]
            for number, (one, _, others) in enumerate(chosen)
        ]
    )
    found = []
    for (one, first, others), order in zip(chosen, ranked, strict=True):
        rng = random.Random(one.question)
        likely = [others[i] for i in order[:LIKELY]]
        wrong = [*first, *rng.sample(likely, len(likely))][: options - 1]
        place = f"{one.group}:{len(found)}"
        records = [
            _answered(one.record, answer, f"{place}:{i}")
            for i, answer in enumerate((one.names[0], *wrong))
        ]
        found.append(Choice(one.group, tuple(records)))
    return found
