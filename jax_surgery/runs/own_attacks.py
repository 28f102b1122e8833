# SPDX-License-Identifier: Apache-2.0
"""Attacks that a run tries on its own finished model, and what they say of it.

Only those that train nothing are cheap enough for every run; configs/attack.py has the
others. What is asked are the questions about what was to go: of a questions file, or of
the records with alternatives to their answers (`data.alternatives`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery import benchmarks
from jax_surgery.attacks import Named, verdict
from jax_surgery.attacks.base import Target, lacking
from jax_surgery.attacks.curve import Point, all_measured
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

QUESTIONS = 240  # or texts of a group, that each try asks at most
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
    """Records to unlearn as questions, with the alternatives beside their answers.

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
      attacks: those that are tried.
      target: what the adversary has, and what it is asked.
      seed: of the attacks.
    """

    attacks: Sequence[Named]
    target: Target
    seed: int

    def mount(self, model: Model) -> dict[str, Any]:
        """{"verdict", "attacks", "excess"; see `summed_up`}; attacks that lack something
        here are left out."""
        able = [one for one in self.attacks if not lacking(one.attack, self.target)]
        named = progress.Bar(
            [(one.spec, one.attack) for one in able],
            title="attacks without training",
            unit="attack",
        )
        of = (model, self.target, asked.measure)
        return summed_up(able, all_measured(named, *of, seed=self.seed), {})


def summed_up(
    attacks: Sequence[Named],
    curves: Mapping[str, list[Point]],
    references: Mapping[str, list[Point]],
) -> dict[str, Any]:
    """What results.json holds of attacks.

    Args:
      curves: of the model, by what names the attack; some may not be there yet.
      references: of a model that never knew; {} where there is none.

    Returns:
      {"verdict": see `verdict.verdict`; "excess": see `verdict.excesses`; "attacks": of
      each {"attack", "family", "curve", "reference_curve": of a model that never knew, or
      []}}.
    """
    there = [one for one in attacks if one.spec in curves]
    of = {s: Attacked(c, references.get(s, ())) for s, c in curves.items()}
    families: dict[str, dict[str, Attacked]] = {}
    for one in there:
        families.setdefault(one.family, {})[one.spec] = of[one.spec]
    return {
        "verdict": verdict.verdict(of),
        "excess": verdict.excesses(families),
        "attacks": [
            {
                "attack": one.spec,
                "family": one.family,
                "curve": curves[one.spec],
                "reference_curve": references.get(one.spec, []),
            }
            for one in there
        ],
    }


def prepared(
    questions: Sequence[Question],
    attacks: Sequence[Named],
    records: Sequence[Record],
    seed: int,
    how: Probe,
) -> OwnAttacks | None:
    """The attacks of a run that asks questions; None where there is nothing to ask.

    Args:
      questions: about what was to go.
      attacks, records, seed: see `of_probes`.
      how: a probe whose context and chat are taken.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    probes = [
        dataclasses.replace(how, group=name, questions=tuple(own), metrics=METRICS)
        for name, own in groups.items()
    ]
    return of_probes(probes, attacks, records, seed)


def of_probes(
    probes: Sequence[Probe],
    attacks: Sequence[Named],
    records: Sequence[Record],
    seed: int,
) -> OwnAttacks | None:
    """The attacks of a run; None where there is nothing to ask.

    Args:
      probes: about what was to go.
      records: that were unlearned: what an adversary has of them.
      seed: of what is drawn of the probes, and of the attacks.
    """
    if not probes or not attacks:
        return None
    rng = np.random.default_rng(seed)
    drawn = tuple(_drawn(probe, rng) for probe in probes)
    context = max(probe.context for probe in probes)
    return OwnAttacks(attacks, Target(tuple(records), drawn, context), seed)


def _drawn(probe: Probe, rng: np.random.Generator) -> Probe:
    """Some of a probe's questions or texts, as records where it has them: attacks rewrite
    those, and documents would be read in their place."""
    asked = probe.questions or probe.records or probe.documents
    picks = sorted(rng.permutation(len(asked))[:QUESTIONS])
    some = lambda own: tuple(own[i] for i in picks)
    if probe.questions:
        return dataclasses.replace(probe, questions=some(probe.questions))
    if probe.records:
        return dataclasses.replace(probe, records=some(probe.records), documents=())
    return dataclasses.replace(probe, documents=some(probe.documents))
