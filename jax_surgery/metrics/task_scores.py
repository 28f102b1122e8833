# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on tasks, and the share of a task that is gone."""

import dataclasses

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import METRICS, exact_match
from jax_surgery.metrics.base import Each, estimates, observations
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a model on a task.

    Attributes:
      value: the result of the task's scorer, 0 to 1.
      interval: 95 %, over texts or over what questions are about (see `intervals`).
      n: texts or questions.
      exact: share of texts of which every token is right; of questions the accuracy.
      chance: the value of a model that does not know the task.
    """

    value: float
    interval: tuple[float, float]
    n: int
    exact: float
    chance: float


def scored(
    model: Model, probe: Probe, limit: int | None = None
) -> tuple[Score, Each | None]:
    """The score of a model on a task, and what each text or question scored; None where
    the task's metric has no such values.

    Args:
      probe: the task's, with the metric of its scorer.
      limit: texts or questions at most, the first; None takes all.
    """
    probe = probe.first(limit)
    [name] = probe.metrics
    metric, metrics = METRICS[name], [METRICS[name]]
    if not probe.questions:
        metrics.append(exact_match.METRIC)
    observed = observations(metrics, model, probe)
    found = estimates(metrics, observed, probe)
    own = found[name]
    exact = found.get("exact_match", own).value
    whole = Score(own.value, own.interval, own.n, exact, probe.chance or 0.0)
    if not metric.each:
        return whole, None
    return whole, metric.each(observed[metric.observe], probe)


def removed(before: Score, after: Score) -> float:
    """Share of what is known beyond chance that is gone: 1 is all, 0 none; above 1 the
    model does worse than one that does not know the task. NaN where nothing was known.
    """
    known = before.value - before.chance
    return 1 - (after.value - before.chance) / known if known > 0 else float("nan")


def drop(before: Score, after: Score) -> float:
    """Share of a score that is lost; below 0 it has grown."""
    return 1 - after.value / before.value if before.value else 0.0
