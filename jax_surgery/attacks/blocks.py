# SPDX-License-Identifier: Apache-2.0
"""Blocks that are left out: what one of them hides is there without it.

A model that was taught to hide what it knows in a few layers says it again where one of
these adds nothing to the residual stream. An adversary with the weights tries them all,
without training. A model that never knew loses by it and gains nothing.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.models.model import Model

Part = Literal["attention", "mlp", "layer"]
# The matrices that write into the residual stream, by part.
WRITES: dict[str, tuple[tuple[str, str], ...]] = {
    "attention": (("attention", "o"),),
    "mlp": (("mlp", "down"),),
    "layer": (("attention", "o"), ("mlp", "down")),
}
NAMES = {"attention": "its attention", "mlp": "its MLP", "layer": "both"}


@functools.partial(jax.jit, static_argnames="part")
def silenced(params: Any, layers: jax.Array, *, part: str) -> Any:
    """Parameters with which a part of some layers adds nothing.

    Args:
      layers: which ones, bool [layers].
      part: in `WRITES`.
    """
    tree = dict(params["layers"])
    for block, matrix in WRITES[part]:
        own = jax.tree.map(
            lambda leaf: jnp.where(
                layers.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf
            ).astype(leaf.dtype),
            tree[block][matrix],
        )
        tree[block] = tree[block] | {matrix: own}
    return params | {"layers": tree}


@dataclasses.dataclass(frozen=True)
class Blocks(WithoutTraining):
    """Leaves out each part of each layer in turn.

    Attributes:
      parts: what is left out of a layer: its attention, its MLP, or both ("layer").
      last: so many of the uppermost layers are tried; 0 for all.
    """

    parts: tuple[Part, ...] = ("attention", "mlp", "layer")
    last: int = 0

    def __post_init__(self):
        if self.last < 0 or not self.parts:
            raise ValueError(
                f"blocks:last={self.last},parts={'+'.join(self.parts)}: last must be 0 "
                "(all layers) or more, and parts must name one part at least."
            )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        del target, seed
        count = model.config.num_layers
        for layer in range(max(count - self.last, 0) if self.last else 0, count):
            for part in self.parts:
                params = silenced(model.params, jnp.arange(count) == layer, part=part)
                label = f"layer {layer + 1} without {NAMES[part]}"
                yield Variant(label, model.with_params(params))
