# SPDX-License-Identifier: Apache-2.0
"""What an attack is: what an adversary has, may spend, and ends up with."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
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
        """What is spent when `cost` is spent too."""
        return Budget(
            self.steps + cost.steps,
            self.tokens + cost.tokens,
            self.flops + cost.flops,
        )

    def allows(self, spent: "Budget") -> bool:
        """Whether so much may be spent."""
        limits = dataclasses.astuple(self)
        pairs = zip(limits, dataclasses.astuple(spent), strict=True)
        return all(not limit or value <= limit for limit, value in pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What an adversary goes for.

    Attributes:
      records: text that it has.
      probes: what it wants to know: text or questions that it has not seen.
      context: tokens a row.
    """

    records: tuple[Record, ...]
    probes: tuple[Probe, ...]
    context: int


# Called with what is spent so far, before the first step and after every one. The model
# is lent: its parameters are given up in the next step.
Watch = Callable[[Budget, Model], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
    """What an adversary ends up with.

    Attributes:
      model: to ask; the given one where the attack leaves the weights alone.
      probes: as it asks them; those of the target unless the attack rewrites prompts.
      spent: on the way.
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


def ignore(spent: Budget, model: Any) -> None:
    """A watch that does nothing."""
    del spent, model
