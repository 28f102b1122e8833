# SPDX-License-Identifier: Apache-2.0
"""The interface of an attack: the adversary's target, budget and result."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from jax_surgery.benchmarks.base import Target
from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an adversary may spend, where 0 sets no limit; or what it has spent.

    Attributes:
      steps: of an optimizer, or queries of the model.
      tokens: of text that the model was run on, padding left out.
      flops: floating-point operations of the model, padding included.
    """

    steps: int = 0
    tokens: int = 0
    flops: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) < 0:
                raise ValueError(
                    f"config.budget.{field.name}={value} must not be negative; 0 sets "
                    "no limit."
                )

    def plus(self, cost: "Budget") -> "Budget":
        """The sum of this budget and another."""
        return Budget(
            self.steps + cost.steps,
            self.tokens + cost.tokens,
            self.flops + cost.flops,
        )

    def allows(self, spent: "Budget") -> bool:
        """Whether this budget allows to spend so much."""
        limits = dataclasses.astuple(self)
        pairs = zip(limits, dataclasses.astuple(spent), strict=True)
        return all(not limit or value <= limit for limit, value in pairs)


# Scores by group and metric.
Found = Mapping[str, Mapping[str, Estimate]]


class Watch(Protocol):
    """Is shown the model before the first step and after every step."""

    def __call__(
        self,
        spent: Budget,
        model: Model,
        *,
        label: str = "",
        probes: tuple[Probe, ...] | None = None,
        found: Found | None = None,
    ) -> None:
        """Looks at a model, whose parameters the next step may donate.

        Args:
          spent: so far.
          label: what was done to the model, where steps are tries of their own, and not
            one after another on the way; each of these is asked.
          probes: what is asked instead of the target's, by an attack that rewrites it.
          found: scores by group and metric, of an attack that reads the answers from the
            model in another way; then nothing is asked.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
    """The result of an attack.

    Attributes:
      model: the attacked model; the given one if the attack does not change weights.
      probes: the probes to ask; those of the target unless the attack rewrites prompts.
      spent: the budget that the attack used.
    """

    model: Model
    probes: tuple[Probe, ...]
    spent: Budget


class Attack(Protocol):
    """A frozen dataclass whose fields are the options, called with what is attacked."""

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """Attacks a model, whose parameters stay as they are.

        Args:
          budget: never exceeded.
          seed: the same one gives the same attack.
          watch: reads the model on the way.
        """


def ignore(
    spent: Budget,
    model: Any,
    *,
    label: str = "",
    probes: tuple[Probe, ...] | None = None,
    found: Found | None = None,
) -> None:
    """A watch that does nothing."""
    del spent, model, label, probes, found


def lacking(attack: Attack, target: Target) -> str:
    """What an attack needs that the adversary does not have, as a sentence; "" where it
    has all. An attack says so in a method `lacks(target)`, where it needs something."""
    lacks = getattr(attack, "lacks", None)
    return lacks(target) if lacks else ""


__all__ = [
    "Attack",
    "Attacked",
    "Budget",
    "Found",
    "Target",
    "Watch",
    "ignore",
    "lacking",
]
