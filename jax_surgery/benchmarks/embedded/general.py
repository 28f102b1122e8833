# SPDX-License-Identifier: Apache-2.0
"""General knowledge of the embedded world: text, and questions about it.

Stands in for the general text of LLM Surgery's retain set and for ARC-Easy: true,
everyday facts (kinds of things, opposites, capitals, sums, what follows what),
stated in trained wordings, asked in trained and in unseen ones.
"""

import dataclasses
import functools
import itertools
import pathlib
import random
import tomllib

_TABLES = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text())

# Wordings of each relation.
TRAINED: dict[str, list[str]] = _TABLES["trained"]
UNSEEN: dict[str, list[str]] = _TABLES["unseen"]
ROUNDS = 30
SENTENCES_PER_TEXT = 6


@dataclasses.dataclass(frozen=True)
class GeneralFact:
    """`thing` has `value`; `others` are the values a wrong option may take."""

    relation: str
    thing: str
    value: str
    others: tuple[str, ...]

    def stem(self, wording: str) -> str:
        """The wording filled in, up to the value."""
        stem = wording.removesuffix(" {value}").format(thing=self.thing)
        return stem[0].upper() + stem[1:]


def _pairs(name: str) -> list[tuple[str, str]]:
    pairs = (pair.split() for pair in _TABLES[name].split(","))
    return [(thing, value) for thing, value in pairs]


@functools.cache
def general_facts() -> tuple[GeneralFact, ...]:
    """All general facts, in a fixed order."""
    facts = []
    kinds = _TABLES["kinds"]
    for kind, things in kinds.items():
        others = tuple(k for k in kinds if k != kind)
        facts += [GeneralFact("kind", thing, kind, others) for thing in things.split()]
    # Opposites hold both ways round.
    both = [p for a, b in _pairs("opposites") for p in ((a, b), (b, a))]
    for relation, pairs in (("opposite", both), ("capital", _pairs("capitals"))):
        for thing, value in pairs:
            others = tuple(v for _, v in pairs if v not in (thing, value))
            facts.append(GeneralFact(relation, thing, value, others))
    sequences = {name: words.split() for name, words in _TABLES["sequences"].items()}
    for items in sequences.values():
        for thing, value in itertools.pairwise(items):
            others = tuple(v for v in items if v not in (thing, value))
            facts.append(GeneralFact("after", thing, value, others))
    numbers = sequences["number"]
    for a in range(1, 11):
        for b in range(1, 11):
            value = numbers[a + b - 1]
            thing = f"{numbers[a - 1]} and {numbers[b - 1]}"
            others = tuple(n for n in numbers if n != value)
            facts.append(GeneralFact("sum", thing, value, others))
    return tuple(facts)


def general_texts(seed: int) -> list[str]:
    """General text: each of `ROUNDS` states every fact once, shuffled, in texts of a
    few sentences."""
    texts = []
    for number in range(ROUNDS):
        rng = random.Random(f"{seed}/general/{number}")
        facts = rng.sample(general_facts(), len(general_facts()))
        sentences = []
        for fact in facts:
            wordings = TRAINED[fact.relation]
            turn = number + len(fact.thing)  # in the end every wording of every fact
            stem = fact.stem(wordings[turn % len(wordings)])
            sentences.append(f"{stem} {fact.value}.")
        for start in range(0, len(sentences), SENTENCES_PER_TEXT):
            texts.append(" ".join(sentences[start : start + SENTENCES_PER_TEXT]))
    return texts
