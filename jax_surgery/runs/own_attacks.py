# SPDX-License-Identifier: Apache-2.0
"""Attacks that a run tries on its own finished model, and what they say of it.

Only those that train nothing are cheap enough for every run; configs/attack.py has the
others. What is asked are the questions about what was to go: of a questions file, or of
the records with each other's answers as alternatives.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery import benchmarks
from jax_surgery.attacks import verdict
from jax_surgery.attacks.base import Attack, Target
from jax_surgery.attacks.curve import all_measured
from jax_surgery.attacks.verdict import Attacked
from jax_surgery.benchmarks import BENCHMARKS
from jax_surgery.data.alternatives import Choice
from jax_surgery.data.asked import NAMED, question_of
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.models.model import Model
from jax_surgery.parallel import progress
from jax_surgery.runs import asked
from jax_surgery.runs.free_form import REMOVED

QUESTIONS = 240  # of a group, that each try asks at most
METRICS = ("multiple_choice",)


def of_questions(source: str, questions: Sequence[Question]) -> list[Question]:
    """Questions about what is unlearned: of a benchmark those of its groups with that
    role, of a file those whose group is named so (`asked.NAMED`).

    Args:
      source: `config.data.questions`.
    """
    if source.partition(":")[0] in BENCHMARKS:
        groups = benchmarks.parse(source).groups()
        removed = {group.name for group in groups if group.role == "unlearn"}
    else:
        removed = {name for name, kind in NAMED.items() if kind == "unlearn"}
    return [question for question in questions if question.group in removed]


def of_choices(choices: Sequence[Choice]) -> list[Question]:
    """Records to unlearn as questions, with the answers to similar ones beside theirs.

    Args:
      choices: of what was to go; groups of other records are left out.
    """
    return [
        Question(
            id=f"unlearn-{number}",
            group=one.group,
            wording="trained" if one.group == "unlearn" else "unseen",
            prompt=question_of(one.records[0]),
            options=tuple(record.said for record in one.records),
            answer=0,
        )
        for number, one in enumerate(choices)
        if one.group in REMOVED
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class OwnAttacks:
    """Attacks on a finished model.

    Attributes:
      attacks: by what names them.
      target: what the adversary has, and what it is asked.
      seed: of the attacks.
    """

    attacks: Mapping[str, Attack]
    target: Target
    seed: int

    def mount(self, model: Model) -> dict[str, Any]:
        """{"verdict": see `verdict.verdict`; "attacks": of each {"attack", "curve",
        "reference_curve": [] here}}."""
        named = progress.Bar(
            self.attacks.items(), title="attacks without training", unit="attack"
        )
        of = (model, self.target, asked.measure)
        curves = all_measured(named, *of, seed=self.seed)
        return {
            "verdict": verdict.verdict({s: Attacked(c) for s, c in curves.items()}),
            "attacks": [
                {"attack": spec, "curve": curve, "reference_curve": []}
                for spec, curve in curves.items()
            ],
        }


def prepared(
    attacks: Mapping[str, Attack],
    questions: Sequence[Question],
    records: Sequence[Record],
    how: Probe,
    seed: int,
) -> OwnAttacks | None:
    """The attacks of a run; None where there is nothing to ask.

    Args:
      questions: about what was to go.
      records: that were unlearned: what an adversary has of them.
      how: a probe whose context and chat are taken.
      seed: of the questions that are drawn, and of the attacks.
    """
    if not questions or not attacks:
        return None
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    rng = np.random.default_rng(seed)
    probes = tuple(
        dataclasses.replace(
            how,
            group=name,
            questions=tuple(
                own[i] for i in sorted(rng.permutation(len(own))[:QUESTIONS])
            ),
            metrics=METRICS,
        )
        for name, own in groups.items()
    )
    return OwnAttacks(attacks, Target(tuple(records), probes, how.context), seed)
