# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on tasks, and the share of a task that is gone."""

import dataclasses

from jax_surgery.benchmarks.base import SCORERS
from jax_surgery.benchmarks.tasks import GroupText
from jax_surgery.data.probes import Probe
from jax_surgery.metrics import METRICS, exact_match, measure
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a model on a task.

    Attributes:
      value: the result of the task's scorer, 0 to 1.
      interval: 95 %, Wilson's of accuracies, of a bootstrap over texts of likelihoods.
      n: answers' tokens or questions.
      exact: share of texts of which every token is right; of questions the accuracy.
      chance: the value of a model that does not know the task.
    """

    value: float
    interval: tuple[float, float]
    n: int
    exact: float
    chance: float


def probe_of(text: GroupText, context: int) -> Probe:
    """The probe that a task is scored on."""
    return Probe(
        text.group.name,
        context,
        text.questions,
        documents=tuple(text.tested),
        metrics=(SCORERS[text.group.scorer],),
        known_chance=text.group.chance,
    )


def score(
    model: Model, text: GroupText, context: int, limit: int | None = None
) -> Score:
    """Scores a model on a task.

    Args:
      text: the task's.
      context: tokens a row.
      limit: texts or questions at most, the first; None takes all.
    """
    probe = probe_of(text, context)
    (name,) = probe.metrics
    metrics = [METRICS[name]]
    if not text.questions:
        metrics.append(exact_match.METRIC)
    found = measure(metrics, model, probe.first(limit))
    own = found[name]
    exact = found.get("exact_match", own).value
    return Score(own.value, own.interval, own.n, exact, probe.chance or 0.0)


def removed(before: Score, after: Score) -> float:
    """Share of what is known beyond chance that is gone: 1 is all, 0 none; above 1 the
    model does worse than one that does not know the task. NaN where nothing was known.
    """
    known = before.value - before.chance
    return 1 - (after.value - before.chance) / known if known > 0 else float("nan")


def drop(before: Score, after: Score) -> float:
    """Share of a score that is lost; below 0 it has grown."""
    return 1 - after.value / before.value if before.value else 0.0
