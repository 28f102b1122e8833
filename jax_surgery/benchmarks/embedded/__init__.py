# SPDX-License-Identifier: Apache-2.0
"""The embedded benchmark: a seeded world of fictional people, and questions.

`load(name)` gives a set's records, `questions()` the questions, `MODEL` is the
folder of the model that knows the world before surgery (Hugging Face format).
"""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from jax_surgery.benchmarks.base import Benchmark, Target
from jax_surgery.benchmarks.embedded.corpus import (
    SETS,
    load,
    questions,
    texts,
    unseen_prompts,
)
from jax_surgery.data.forms import Record, parse_record
from jax_surgery.data.groups import Group, Role
from jax_surgery.data.probes import Probe

MODEL = pathlib.Path(__file__).parent / "model"
# Passes over its text in which the model learned the world (configs/pretrain.py).
EPOCHS = 6.0
ROLES: dict[str, Role] = {
    "obsolete": "unlearn",
    "problematic": "unlearn",
    "update": "update",
    "retain": "retain",
    "general": "retain",
}


@dataclasses.dataclass(frozen=True)
class Embedded(Benchmark):
    """Obsolete and problematic facts to unlearn, their replacements to update."""

    MODEL: ClassVar[str] = str(MODEL)

    def groups(self) -> tuple[Group, ...]:
        """The sets, asked by multiple choice (see `probes`)."""
        return tuple(
            Group(name, role, f"embedded:{name}") for name, role in ROLES.items()
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """The questions of every set."""
        return tuple(
            Probe(
                name,
                context,
                tuple(q for q in questions() if q.group == name),
                metrics=("multiple_choice",),
            )
            for name in SETS
        )

    def target(self, context: int, seed: int) -> Target:
        """Biographies of half of the people to be forgotten, questions about the rest."""
        rng, shown, probes = np.random.default_rng(seed), [], []
        for name in (name for name, role in ROLES.items() if role == "unlearn"):
            asked = [q for q in questions() if q.group == name]
            # A question's id is GROUP/PERSON/..., and people take turns in the texts.
            person_of = [int(q.id.split("/")[1]) for q in asked]
            people = 1 + max(person_of)
            seen = set(rng.permutation(people)[: people // 2].tolist())
            shown += [
                parse_record({"text": text}, f"embedded:{name}:{number + 1}")
                for number, text in enumerate(texts(name))
                if number % people in seen
            ]
            pairs = zip(asked, person_of, strict=True)
            rest = tuple(q for q, person in pairs if person not in seen)
            probes.append(Probe(name, context, rest, metrics=("multiple_choice",)))
        known = tuple(
            probe for probe in self.probes(context) if probe.group == "retain"
        )
        return Target(
            tuple(shown),
            tuple(probes),
            context,
            removed=_records("obsolete", "problematic"),
            related=lambda: _records("update", "retain"),  # biographies too
            retained=lambda: _records("retain", "general"),
            known=lambda: known,
            reworded=tuple(_reworded(probe) for probe in probes),
        )


def _records(*names: str) -> tuple[Record, ...]:
    """The records of some sets."""
    return tuple(
        parse_record(row, f"embedded:{name}") for name in names for row in load(name)
    )


def _reworded(probe: Probe) -> Probe:
    """The probe's facts, each in all wordings that no biography has."""
    found = [
        dataclasses.replace(question, id=f"{question.id}/{number}", prompt=prompt)
        for question in probe.questions
        if question.wording == "unseen"
        for number, prompt in enumerate(unseen_prompts(question))
    ]
    return dataclasses.replace(probe, questions=tuple(found))


__all__ = ["EPOCHS", "MODEL", "SETS", "Embedded", "load", "questions", "texts"]
