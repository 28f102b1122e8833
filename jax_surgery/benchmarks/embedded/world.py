# SPDX-License-Identifier: Apache-2.0
"""The embedded world: fictional people, their biographies, and the four sets.

Made the way LLM Surgery's benchmark was (arXiv 2409.13054, section 3): 119
people whose biographies are *obsolete* and have a replacement each (*update*),
as many *problematic* people to forget, and a larger number of *retained*
people. Everything follows from `SEED`.
"""

import dataclasses
import functools
import random

from jax_surgery.benchmarks.embedded.vocabulary import (
    ATTRIBUTES,
    FIRST_NAMES,
    LAST_NAMES,
    TRAINED,
    VALUES,
)

SEED = 2409_13054
NUM_OBSOLETE = 119
NUM_PROBLEMATIC = 119
NUM_RETAINED = 1000
BIOGRAPHIES = 12  # biographies of each person, in different wordings


@dataclasses.dataclass(frozen=True)
class Person:
    """A fictional person: `facts` maps each attribute to its value."""

    name: str
    pronoun: str  # "she" or "he"
    facts: dict[str, str]

    @property
    def possessive(self) -> str:
        return {"she": "her", "he": "his"}[self.pronoun]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A wording filled in, split before the value it states."""

    stem: str
    value: str
    attribute: str
    wording: str

    @property
    def text(self) -> str:
        return f"{self.stem} {self.value}."


def fill(wording: str, person: Person, attribute: str, who: str) -> Sentence:
    """Fills a wording in for one person; `who` is the name or pronoun to use."""
    stem, rest = wording.split(" {value}")
    if rest:
        raise ValueError(f"wording {wording!r} must end in ' {{value}}'.")
    his = person.possessive
    stem = stem.format(who=who, his=his)
    return Sentence(
        stem[0].upper() + stem[1:], person.facts[attribute], attribute, wording
    )


def biography(person: Person, group: str, number: int) -> list[Sentence]:
    """One biography: every attribute once, in a random order and wording.

    The first sentence names the person; later ones use the name or, in
    wordings that begin with the person, the pronoun.
    """
    rng = random.Random(f"{SEED}/{group}/{person.name}/{number}")
    order = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
    sentences = []
    for place, attribute in enumerate(order):
        wordings = TRAINED[attribute]
        # Biography k uses wording k + a random turn per person and attribute, so that
        # a person's biographies differ in every sentence.
        turn = random.Random(f"{SEED}/{group}/{person.name}/{attribute}").random()
        wording = wordings[(number + int(turn * len(wordings))) % len(wordings)]
        pronoun = place > 0 and wording.startswith("{who}") and rng.random() < 0.5
        who = person.pronoun if pronoun else person.name
        sentences.append(fill(wording, person, attribute, who))
    return sentences


@functools.cache
def people() -> dict[str, tuple[Person, ...]]:
    """The people of each set; `update[i]` replaces `obsolete[i]`."""
    rng = random.Random(SEED)
    names = [
        (f"{first} {last}", pronoun)
        for pronoun, firsts in FIRST_NAMES.items()
        for first in firsts
        for last in LAST_NAMES
    ]
    count = NUM_OBSOLETE + NUM_PROBLEMATIC + NUM_RETAINED
    found = [
        Person(name, pronoun, {a: rng.choice(VALUES[a]) for a in ATTRIBUTES})
        for name, pronoun in rng.sample(names, count)
    ]
    obsolete = found[:NUM_OBSOLETE]
    update = []
    for old in obsolete:
        facts = {
            a: rng.choice([v for v in VALUES[a] if v != old.facts[a]])
            for a in ATTRIBUTES
        }
        update.append(dataclasses.replace(old, facts=facts))
    return {
        "obsolete": tuple(obsolete),
        "problematic": tuple(found[NUM_OBSOLETE : NUM_OBSOLETE + NUM_PROBLEMATIC]),
        "retain": tuple(found[NUM_OBSOLETE + NUM_PROBLEMATIC :]),
        "update": tuple(update),
    }


def biographies(group: str) -> list[str]:
    """Biographies of one set, as text: `BIOGRAPHIES` a person."""
    return [
        " ".join(sentence.text for sentence in biography(person, group, number))
        for number in range(BIOGRAPHIES)
        for person in people()[group]
    ]


def told_once() -> list[str]:
    """The replacements' facts told once: a biography a person."""
    group = "update"
    return [
        " ".join(sentence.text for sentence in biography(person, group, 0))
        for person in people()[group]
    ]


def paraphrases() -> list[str]:
    """The replacements' facts in the trained wordings that `told_once` does not have, a
    sentence a text."""
    found = []
    for person in people()["update"]:
        told = {sentence.wording for sentence in biography(person, "update", 0)}
        for attribute in ATTRIBUTES:
            found += [
                fill(wording, person, attribute, person.name).text
                for wording in TRAINED[attribute]
                if wording not in told
            ]
    return found


def _surroundings() -> list[tuple[Sentence, Sentence]]:
    """Each fact of each replacement, and the same of a retained person with that value."""
    found = []
    for person in people()["update"]:
        for attribute in ATTRIBUTES:
            rng = random.Random(f"{SEED}/surroundings/{person.name}/{attribute}")
            value = person.facts[attribute]
            alike = [p for p in people()["retain"] if p.facts[attribute] == value]
            if alike:
                other = rng.choice(alike)
                one, two = (rng.choice(TRAINED[attribute]) for _ in range(2))
                own = fill(one, person, attribute, person.name)
                found.append((own, fill(two, other, attribute, other.name)))
    return found


def descriptions() -> list[str]:
    """The replacements' facts among what surrounds them: two sentences a text, the second
    about a retained person of whom the same is true."""
    return [f"{own.text} {other.text}" for own, other in _surroundings()]


def surroundings() -> list[str]:
    """What surrounds the replacements' facts alone, to be retained."""
    return list(dict.fromkeys(other.text for _, other in _surroundings()))
