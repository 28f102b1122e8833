# SPDX-License-Identifier: Apache-2.0
"""The interface of a metric: an observation of the model, and an estimate from it.

They are separate because the observation takes most of the time: metrics that read the same
one (all that score the tokens of answers do) share a single pass over the text.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

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


class Each(NamedTuple):
    """What was measured one by one, to be compared in pairs with another model's.

    Attributes:
      ids: of what was asked; no two are alike.
      values: of each, which average to about the metric's value.
      about: the person or thing that each is about; what is about the same one is no
        independent observation.
    """

    ids: Sequence[str]
    values: Sequence[float]
    about: Sequence[str]


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
      counts: what `Estimate.n` counts: "questions" or "texts".
      source: where the metric is defined.
      protocol: how the model is asked; "" where the metric does not say.
      observe: reads what the estimate needs from the model. Metrics with the very same
        function share its result.
      estimate: makes the value from what was observed.
      each: the value of each thing that is counted; None where a metric has no such.
      reference: what `Estimate.reference` is, in words; "" where it has none.
    """

    name: str
    direction: Direction
    unit: str
    counts: str
    source: str
    observe: Observe
    estimate: Callable[[Any, Probe], Estimate]
    protocol: Protocol | Literal[""] = ""
    each: Callable[[Any, Probe], Each] | None = None
    reference: str = ""

    def __call__(self, model: Model, probe: Probe) -> Estimate:
        """The model's score.

        Raises:
          ValueError: see `measured`.
        """
        return self.measured(self.observe(model, probe), probe)

    def measured(self, observed: Any, probe: Probe) -> Estimate:
        """The estimate from what was observed.

        Raises:
          ValueError: it is no finite number, as of a model that has diverged: a model that
            cannot be measured has no score, not a bad one.
        """
        found = self.estimate(observed, probe)
        if not all(map(math.isfinite, (found.value, *found.interval))):
            raise ValueError(
                f"{self.name} of {probe.group!r} is {found.value}, with the interval "
                f"{list(found.interval)}: no finite number. The weights of the model hold "
                "NaN or are too large for its dtype; use an earlier checkpoint, or "
                "--config.compute.dtype=float32."
            )
        return found


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
    return {m.name: m.measured(observed[m.observe], probe) for m in metrics}


def measure(
    metrics: Sequence[Metric], model: Model, probe: Probe
) -> dict[str, Estimate]:
    """The model's score by every metric, by name."""
    return estimates(metrics, observations(metrics, model, probe), probe)
