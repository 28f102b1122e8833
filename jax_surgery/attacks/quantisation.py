# SPDX-License-Identifier: Apache-2.0
"""Quantisation: what was moved by less than a rounding step is back where it was.

Unlearning that moves weights a little is undone by the few bits with which models are
served (Zhang et al. 2024, arXiv 2410.16454). Each matrix of the layers goes to a format
and back; embeddings, head, norms and biases stay, as in the usual loaders.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import as_matrices, matrix_name

Format = Literal["int8", "int4", "nf4", "fp4"]
GROUP = 64  # weights that share a scale in the formats of 4 bits
# The outermost quantile of NF4 (bitsandbytes), so that its ends are the largest weight.
OUTERMOST = 0.9677083


@functools.cache
def nf4_levels() -> np.ndarray:
    """The 16 values of NormalFloat4, float32 [16], from -1 to 1: quantiles of a normal
    distribution, 7 below 0 and 8 above it (Dettmers et al. 2023, arXiv 2305.14314,
    section 3; the quantiles are those of bitsandbytes)."""
    from scipy.stats import norm  # takes half a second to import

    above = norm.ppf(np.linspace(OUTERMOST, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(OUTERMOST, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([above, below, [0.0]]))
    return (levels / levels.max()).astype(np.float32)


def fp4_levels() -> np.ndarray:
    """The 15 values of a float of 4 bits, float32 [15], from -1 to 1: 1 bit of sign, 2 of
    exponent, 1 of mantissa, as bitsandbytes has them (`load_in_4bit` by default)."""
    positive = np.array([0.0625, 2, 3, 4, 6, 8, 12]) / 12
    return np.concatenate([-positive[::-1], [0.0], positive]).astype(np.float32)


# Formats whose values are not equally far apart.
LEVELS = {"nf4": nf4_levels, "fp4": fp4_levels}


def rounded(weight: jax.Array, form: str) -> jax.Array:
    """A matrix after a round trip through a format.

    int8 has a scale for each output (Dettmers et al. 2022, arXiv 2208.07339, section 2),
    those of 4 bits one for `GROUP` weights next to each other along the inputs; the largest
    weight under a scale is the format's largest value.

    Args:
      weight: [inputs, outputs].
      form: a `Format`.
    """
    inputs, outputs = weight.shape
    size = inputs if form == "int8" else GROUP
    padded = jnp.pad(weight, ((0, -inputs % size), (0, 0))).astype(jnp.float32)
    groups = padded.reshape(-1, size, outputs)
    largest = jnp.abs(groups).max(1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    if form in LEVELS:
        levels = LEVELS[form]()
        middle = (levels[1:] + levels[:-1]) / 2
        there = jnp.asarray(levels)[
            jnp.searchsorted(jnp.asarray(middle), groups / scale)
        ]
    else:
        steps = 127 if form == "int8" else 7
        there = jnp.round(groups / scale * steps) / steps
    back = (there * scale).reshape(-1, outputs)[:inputs]
    return back.astype(weight.dtype)


@functools.partial(jax.jit, static_argnames="form")
def quantised(params: Any, *, form: str) -> Any:
    """Parameters whose layers' matrices went through a format."""

    def of_leaf(path: Any, leaf: jax.Array) -> jax.Array:
        if (name := matrix_name(path)) is None:
            return leaf
        stacked = jax.lax.map(lambda m: rounded(m, form), as_matrices(name, leaf))
        return stacked.reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


@dataclasses.dataclass(frozen=True)
class Quantisation(WithoutTraining):
    """Round trips through formats of few bits.

    Attributes:
      formats: int8, int4, nf4 or fp4.
    """

    formats: tuple[Format, ...] = ("int8", "int4", "nf4")

    def __post_init__(self):
        if not self.formats:
            raise ValueError("quantisation:formats= must name int8, int4, nf4 or fp4.")

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        del target, seed
        for form in self.formats:
            params = quantised(model.params, form=form)
            yield Variant(f"in {form}", model.with_params(params))
