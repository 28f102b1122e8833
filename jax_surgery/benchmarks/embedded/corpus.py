# SPDX-License-Identifier: Apache-2.0
"""The embedded benchmark as records (text) and questions, by name."""

import functools
import random
from collections.abc import Iterable, Iterator, Sequence

from jax_surgery.benchmarks.embedded import general, vocabulary, world
from jax_surgery.data.questions import Question, Wording

SETS = ("obsolete", "problematic", "update", "retain", "general")
# StableKE's recipe: the new facts told once, in other words, and among what surrounds them.
ENRICHED = {
    "update_once": world.told_once,
    "update_paraphrases": world.paraphrases,
    "update_descriptions": world.descriptions,
    "retain_descriptions": world.surroundings,
}
NUM_OPTIONS = 4


@functools.cache
def texts(name: str) -> tuple[str, ...]:
    """The texts of one set.

    Args:
      name: "obsolete", "problematic", "update", "retain" (biographies of retained
        people), "general", or one of `ENRICHED`.

    Raises:
      ValueError: an unknown name.
    """
    if name in ENRICHED:
        return tuple(ENRICHED[name]())
    if name not in SETS:
        raise ValueError(
            f"embedded set {name!r} does not exist; choose one of "
            f"{', '.join((*SETS, *ENRICHED))}."
        )
    if name == "general":
        return tuple(general.general_texts(world.SEED))
    return tuple(world.biographies(name))


def load(name: str) -> list[dict[str, str]]:
    """The records of one set, as lines of a JSONL file: `{"text": ...}`."""
    return [{"text": text} for text in texts(name)]


def _asked(
    name: str,
    rng: random.Random,
    stems: Iterable[tuple[Wording, str]],
    value: str,
    others: Sequence[str],
) -> Iterator[Question]:
    """A question for each stem, whose options are the value and some others."""
    for wording, stem in stems:
        options = [value, *rng.sample(others, NUM_OPTIONS - 1)]
        rng.shuffle(options)
        yield Question(
            id=f"{name}/{wording}",
            group=name.partition("/")[0],
            wording=wording,
            prompt=stem,
            options=tuple(f" {option}" for option in options),
            answer=options.index(value),
            about="/".join(name.split("/")[:2]),  # GROUP/PERSON, or a general fact
        )


def _trained_wording(person: world.Person, group: str, attribute: str, rng) -> str:
    """A wording in which a biography states this attribute of this person by name."""
    return rng.choice(
        [
            sentence.wording
            for number in range(world.BIOGRAPHIES)
            for sentence in world.biography(person, group, number)
            if sentence.attribute == attribute and person.name in sentence.stem
        ]
    )


def _people_questions(group: str) -> list[Question]:
    """For each fact of each person a trained and an unseen wording.

    No option is the person's value in the counterpart set (the replacement of an
    obsolete fact, or the fact that a replacement replaces): a model that knows
    either one knows nothing about the other, and is at chance.
    """
    people = world.people()
    counterpart = {"obsolete": people["update"], "update": people["obsolete"]}
    questions: list[Question] = []
    for index, person in enumerate(people[group]):
        taken = counterpart[group][index].facts if group in counterpart else {}
        for attribute in vocabulary.ATTRIBUTES:
            rng = random.Random(f"{world.SEED}/question/{group}/{index}/{attribute}")
            value = person.facts[attribute]
            others = [
                v
                for v in vocabulary.VALUES[attribute]
                if v not in (value, taken.get(attribute))
            ]
            wordings: dict[Wording, str] = {
                "trained": _trained_wording(person, group, attribute, rng),
                "unseen": rng.choice(vocabulary.UNSEEN[attribute]),
            }
            stems = (
                (wording, world.fill(template, person, attribute, person.name).stem)
                for wording, template in wordings.items()
            )
            name = f"{group}/{index}/{attribute}"
            questions += _asked(name, rng, stems, value, others)
    return questions


def unseen_prompts(question: Question) -> list[str]:
    """All prompts that ask for what a question about a person asks, in wordings that no
    biography has."""
    group, index, attribute, _ = question.id.split("/")
    person = world.people()[group][int(index)]
    return [
        world.fill(wording, person, attribute, person.name).stem
        for wording in vocabulary.UNSEEN[attribute]
    ]


def _general_questions() -> list[Question]:
    questions: list[Question] = []
    wordings: dict[Wording, dict[str, list[str]]] = {
        "trained": general.TRAINED,
        "unseen": general.UNSEEN,
    }
    for index, fact in enumerate(general.general_facts()):
        name = f"general/{index}"
        rng = random.Random(f"{world.SEED}/question/{name}")
        stems = (  # each is drawn before its options
            (wording, fact.stem(rng.choice(templates[fact.relation])))
            for wording, templates in wordings.items()
        )
        questions += _asked(name, rng, stems, fact.value, fact.others)
    return questions


@functools.cache
def questions() -> tuple[Question, ...]:
    """All questions of the benchmark: four options, chance is 25 %."""
    people = [
        question
        for group in SETS
        if group != "general"
        for question in _people_questions(group)
    ]
    return tuple(people + _general_questions())
