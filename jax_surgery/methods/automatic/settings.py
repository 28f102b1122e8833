# SPDX-License-Identifier: Apache-2.0
"""What a user of the automatic mode says: how much of the rest may change."""

import dataclasses
from typing import Literal

from jax_surgery.config import at_least

# Directions in whose metric the length of a step is what it costs.
MEASURED = ("kfac", "natural", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Retain:
    """How much of what a model says beside the task may change (`config.retain`).

    Attributes:
      budget: nats per token of KL(before || after) on retained text that is held out
        from training, each token up to `held_out.CHANGED`; with 0 nothing is chosen, and
        the config's own steps and weights hold.
      many: the optimizer of a run with more text to unlearn than is read several times
        (`how_many`); "" is `config.optimizer.name`, as of little text.
      complete: whether the model also retains what it writes by itself: neighbours of
        what is forgotten, chats, and general text.
    """

    budget: float
    complete: bool
    many: Literal["", "kfac", "natural", "orthogonal"]

    def __post_init__(self):
        at_least(0, self, "config.retain", "budget")
        if self.complete and not self.budget:
            raise ValueError(
                "config.retain.complete=True writes retained text for a run that keeps "
                "to a budget; give config.retain.budget, 0.02 say (configs/automatic.py), "
                "or use config.retain.complete=False."
            )
