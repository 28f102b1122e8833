# SPDX-License-Identifier: Apache-2.0
"""The interface of a metric: an observation of the model, and an estimate from it.

They are separate because the observation takes most of the time: metrics that read the same
one (all that score the tokens of answers do) share a single pass over the text.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model

# What a high value means: that the model knows the text, or that it does not.
Direction = Literal["knows", "ignorant", "neither"]
# How a model is asked. Values of different protocols are not comparable: a model that is
# given the right beginning of an answer goes on rightly more often than it answers.
Protocol = Literal[
    "teacher-forced token accuracy",
    "teacher-forced likelihood",
    "likelihood comparison",
    "free generation",
]
Observe = Callable[[Model, Probe], Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
      value: the estimate, in the metric's unit.
      interval: 95 % confidence interval of the value (low, high).
      n: how many things were measured, of the kind that the metric counts.
      reference: the value of a model that does not know the text (chance); None where
        that is not known.
    """

    value: float
    interval: tuple[float, float]
    n: int
    reference: float | None = None


@dataclasses.dataclass(frozen=True)
class Metric:
    """A way to score a model on a probe; calling it does so.

    Attributes:
      name: its name in `metrics.METRICS`.
      direction: what a high value means.
      unit: of the value: "share" (0 to 1) or "nats per token".
      counts: what `Estimate.n` counts: "questions", "tokens" or "texts".
      source: where the metric is defined.
      protocol: how the model is asked; "" where the metric does not say.
      observe: reads what the estimate needs from the model. Metrics with the very same
        function share its result.
      estimate: makes the value from what was observed.
    """

    name: str
    direction: Direction
    unit: str
    counts: str
    source: str
    observe: Observe
    estimate: Callable[[Any, Probe], Estimate]
    protocol: Protocol | Literal[""] = ""

    def __call__(self, model: Model, probe: Probe) -> Estimate:
        """The model's score."""
        return self.estimate(self.observe(model, probe), probe)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A way to score a model on a probe beside another model.

    Attributes:
      name: its name in `metrics.COMPARISONS`.
      against: the other model: "before", from which this one was changed, or "never
        knew", one that never read what is asked.
      compare: makes the value from what was observed of the model and of the other.
      direction, unit, counts, source, protocol, observe: as of a `Metric`.
    """

    name: str
    against: Literal["before", "never knew"]
    direction: Direction
    unit: str
    counts: str
    source: str
    protocol: Protocol
    observe: Observe
    compare: Callable[[Any, Any, Probe], Estimate]


def observations(
    metrics: Sequence[Metric | Comparison], model: Model, probe: Probe
) -> dict[Observe, Any]:
    """The observations that metrics need, each made once."""
    wanted = dict.fromkeys(metric.observe for metric in metrics)
    return {observe: observe(model, probe) for observe in wanted}


def estimates(
    metrics: Sequence[Metric], observed: dict[Observe, Any], probe: Probe
) -> dict[str, Estimate]:
    """The metrics' estimates by name, from what `observations` gave."""
    return {m.name: m.estimate(observed[m.observe], probe) for m in metrics}


def measure(
    metrics: Sequence[Metric], model: Model, probe: Probe
) -> dict[str, Estimate]:
    """The model's score by every metric, by name."""
    return estimates(metrics, observations(metrics, model, probe), probe)
