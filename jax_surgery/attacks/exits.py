# SPDX-License-Identifier: Apache-2.0
"""Early exits: the state after each layer is read with the model's own head.

What must go may still stand in the lower layers, and be hidden by the upper ones. This is
the logit lens (nostalgebraist 2020): the final norm and the output head after each layer,
as if those above it were not there.
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp

from jax_surgery.attacks import without_training
from jax_surgery.attacks.base import Attacked, Budget, Target, Watch
from jax_surgery.attacks.blocks import silenced
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Exits:
    """Leaves out all layers above each.

    Attributes:
      last: so many of the uppermost exits are tried; 0 for all.
    """

    last: int = 0

    def __post_init__(self):
        if self.last < 0:
            raise ValueError(f"exits:last={self.last} must be 0 (all) or more.")

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """Asks the model once for each; see `attacks.base.Attack`."""
        del seed
        return without_training.ask(self._variants(model), model, target, budget, watch)

    def _variants(self, model: Model) -> Iterator[without_training.Variant]:
        count = model.config.num_layers
        for kept in range(max(count - self.last, 1) if self.last else 1, count):
            above = jnp.arange(count) >= kept
            params = silenced(model.params, above, part="layer")
            label = f"read after layer {kept}"
            yield without_training.Variant(label, model.with_params(params))
