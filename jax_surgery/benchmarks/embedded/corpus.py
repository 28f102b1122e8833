# SPDX-License-Identifier: Apache-2.0
"""The embedded benchmark as records (text) and questions, by name."""

import functools
import random
from collections.abc import Mapping

from jax_surgery.benchmarks.embedded import general, vocabulary, world
from jax_surgery.data.questions import Question, Wording

SETS = ("obsolete", "problematic", "update", "retain", "general")
NUM_OPTIONS = 4


@functools.cache
def texts(name: str) -> tuple[str, ...]:
    """The texts of one set.

    Args:
      name: "obsolete", "problematic", "update", "retain" (biographies of retained
        people) or "general".

    Raises:
      ValueError: an unknown name.
    """
    if name not in SETS:
        raise ValueError(
            f"embedded set {name!r} does not exist; choose one of {', '.join(SETS)}."
        )
    if name == "general":
        return tuple(general.general_texts(world.SEED))
    return tuple(world.biographies(name))


def load(name: str) -> list[dict[str, str]]:
    """The records of one set, as lines of a JSONL file: `{"text": ...}`."""
    return [{"text": text} for text in texts(name)]


def _options(rng: random.Random, value: str, others: list[str]):
    options = [value, *rng.sample(others, NUM_OPTIONS - 1)]
    rng.shuffle(options)
    return tuple(f" {option}" for option in options), options.index(value)


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
    the_world = world.make_world()
    people = the_world.people(group)
    counterpart = {"obsolete": the_world.update, "update": the_world.obsolete}
    questions = []
    for index, person in enumerate(people):
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
            for wording, template in wordings.items():
                options, answer = _options(rng, value, others)
                stem = world.fill(template, person, attribute, person.name).stem
                questions.append(
                    Question(
                        id=f"{group}/{index}/{attribute}/{wording}",
                        group=group,
                        wording=wording,
                        prompt=stem,
                        options=options,
                        answer=answer,
                    )
                )
    return questions


def _general_questions() -> list[Question]:
    questions = []
    wordings: dict[Wording, Mapping[str, tuple[str, ...]]] = {
        "trained": general.TRAINED,
        "unseen": general.UNSEEN,
    }
    for index, fact in enumerate(general.general_facts()):
        rng = random.Random(f"{world.SEED}/question/general/{index}")
        for wording, templates in wordings.items():
            stem, value = fact.sentence(rng.choice(templates[fact.relation]))
            options, answer = _options(rng, value, list(fact.others))
            questions.append(
                Question(
                    f"general/{index}/{wording}",
                    "general",
                    wording,
                    stem,
                    options,
                    answer,
                )
            )
    return questions


@functools.cache
def questions() -> tuple[Question, ...]:
    """All questions of the benchmark: four options, chance is 25 %."""
    people = [
        question
        for group in ("obsolete", "problematic", "update", "retain")
        for question in _people_questions(group)
    ]
    return tuple(people + _general_questions())
