# SPDX-License-Identifier: Apache-2.0
"""Early exits: the state after each layer is read with the model's own head.

What must go may still stand in the lower layers, and be hidden by the upper ones. This is
the logit lens (nostalgebraist 2020): the final norm and the output head after each layer,
as if those above it were not there.
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.blocks import silenced
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Exits(WithoutTraining):
    """Leaves out all layers above each.

    Attributes:
      last: so many of the uppermost exits are tried; 0 for all.
    """

    last: int = 0

    def __post_init__(self):
        if self.last < 0:
            raise ValueError(f"exits:last={self.last} must be 0 (all) or more.")

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        del target, seed
        count = model.config.num_layers
        for kept in range(max(count - self.last, 1) if self.last else 1, count):
            above = jnp.arange(count) >= kept
            params = silenced(model.params, above, part="layer")
            label = f"read after layer {kept}"
            yield Variant(label, model.with_params(params))
