# SPDX-License-Identifier: Apache-2.0
"""Low-rank deltas (LoRA, arXiv 2106.09685): a matrix W is run as W + (alpha / rank) A B.

A [inputs, rank] and B [rank, outputs] move, in float32; W is frozen. So the base
has neither gradients nor an optimizer's state, may be bfloat16, and is the KL's
reference itself: what a run holds is one model and a hundredth of another.

Factors that do not begin with B = 0 (`optim.fila`) have their beginning beside them, and a
delta is alpha / rank (A B - A0 B0): 0 at the beginning, with the base as it is.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.config import positive
from jax_surgery.models import sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import BLOCK_OF, matrix_names
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.optim.precondition.directions import DIRECTIONS

Params = Any
# The factors alone, in a tree like the model's: {"layers": {"mlp": {"up": {"lora_a":
# [layers, *inputs, rank], "lora_b": [layers, rank, *outputs]}}}}, heads split; beside them
# "start_a" and "start_b", which never move, where B does not begin with 0.
Factors = Any

# Optimizers whose steps are of a whole matrix; a factor's gradient is not one.
OF_WHOLE_MATRICES = ("muon", *DIRECTIONS)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Which matrices have low-rank deltas, and how large those are.

    Attributes:
      rank: rank of each delta; 0 for none: then the parameters themselves move.
      alpha: a delta is alpha / rank times A B.
      matrices: comma-separated matrices of each layer that have one.
    """

    rank: int
    alpha: float = 16.0
    matrices: str = ",".join(BLOCK_OF)

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(
                f"config.lora.rank={self.rank}; use 0 (full training) or more."
            )
        why = "deltas are multiplied by alpha / rank"
        positive(self.alpha, "config.lora.alpha", why)
        if not self.targets:
            raise ValueError(
                f"config.lora.matrices={self.matrices!r} names no matrix; choose from "
                f"{', '.join(MATRICES)}, or use config.lora.rank=0 for full training."
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The matrices that have deltas, in the order of the layout."""
        return matrix_names(self.matrices, "config.lora.matrices")

    @property
    def scale(self) -> float:
        """The scale of A B, alpha / rank."""
        return self.alpha / self.rank

    def check_optimizer(self, choice: OptimizerChoice) -> None:
        """Raises ValueError where an optimizer cannot move factors."""
        problems = []
        if choice.name in OF_WHOLE_MATRICES:
            problems.append(
                f"config.optimizer.name={choice.name!r} steps along whole matrices; use "
                "config.optimizer.name=adamw and a rate for it, e.g. "
                "config.optimizer.learning_rate=3e-3."
            )
        if choice.matrices:
            problems.append(
                f"config.optimizer.matrices={choice.matrices!r} is of full training; use "
                f"config.optimizer.matrices= and config.lora.matrices={choice.matrices}."
            )
        if problems:
            cause = f"config.lora.rank={self.rank} trains low-rank deltas:"
            raise ValueError("\n  ".join([cause, *problems]))


FULL = LowRank(rank=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def init_factors(config: ModelConfig, low_rank: LowRank, seed: int) -> Factors:
    """Factors of deltas that are 0: A uniform, B zero, float32.

    A is drawn within 1 / sqrt(inputs) of 0, as PEFT does. They lie on the mesh that is
    set as `models.sharding` says.
    """
    keys = jax.random.split(jax.random.key(seed), len(low_rank.targets))
    layers: Factors = {}
    for key, name in zip(keys, low_rank.targets, strict=True):
        row = MATRICES[name]
        a, b = (
            (config.num_layers, *factor.shape(config, low_rank.rank))
            for factor in row.factors.values()
        )
        bound = 1 / math.sqrt(row.matrix_shape(config)[0])
        layers.setdefault(row.block, {})[name] = {
            "lora_a": jax.random.uniform(key, a, minval=-bound, maxval=bound),
            "lora_b": jnp.zeros(b),
        }
    return sharding.constrain({"layers": layers})


def _beside(base: Params, factors: Factors, combine: Any) -> Params:
    """The base with `combine(matrix, factor)` for each matrix that has factors."""
    layers = {key: dict(block) for key, block in base["layers"].items()}
    for block, matrices in factors["layers"].items():
        for name, factor in matrices.items():
            layers[block][name] = combine(layers[block][name], factor)
    return base | {"layers": layers}


def attach(base: Params, factors: Factors, low_rank: LowRank) -> Params:
    """Parameters that `decoder.forward_packed` runs as the base with the deltas.

    Nothing is summed or copied, and no gradient reaches the base.
    """

    def beside(matrix, factor):
        a, b = _whole(factor, low_rank.scale)
        return matrix | {"lora_a": a, "lora_b": b}

    return _beside(jax.lax.stop_gradient(base), factors, beside)


def scaled(factors: Factors, scale: float) -> Factors:
    """Factors of deltas that begin with 0, each multiplied by a number."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: scale * leaf if path[-1].key == "lora_b" else leaf, factors
    )


def _whole(factor: dict[str, jax.Array], scale: float) -> tuple[jax.Array, jax.Array]:
    """A and B of a delta, the scale in B; with the beginning, where there is one, taken
    off by further columns and rows."""
    a, b = factor["lora_a"], scale * factor["lora_b"]
    if "start_a" not in factor:
        return a, b
    start_a, start_b = (
        jax.lax.stop_gradient(factor[k]) for k in ("start_a", "start_b")
    )
    return (
        jnp.concatenate([a, start_a], axis=-1),
        jnp.concatenate([b, -scale * start_b], axis=1),
    )


def pairs(
    factors: Factors, low_rank: LowRank
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """a [layers, inputs, rank], b [layers, rank, outputs] of each matrix' delta, the
    scale alpha / rank in b."""
    found = {}
    for block in factors["layers"].values():
        for name, pair in block.items():
            a, b = _whole(pair, low_rank.scale)
            layers, rank = a.shape[0], a.shape[-1]
            found[name] = (a.reshape(layers, -1, rank), b.reshape(layers, rank, -1))
    return found


@functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
def merge(base: Params, factors: Factors, low_rank: LowRank) -> Params:
    """The base with the deltas added to its matrices, like any other parameters.

    Added layer by layer in float32, and rounded once to the base's dtype. The base is
    donated, so that there is no second model in memory, and each device adds its part.
    """

    def add(matrix, factor):
        whole = _whole(factor, low_rank.scale)

        def one(layer, kernel_LXY):
            kernel, a, b = (
                jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)
                for x in (kernel_LXY, *whole)
            )
            delta = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)
            total = kernel.astype(jnp.float32) + delta
            return jax.lax.dynamic_update_index_in_dim(
                kernel_LXY, total.astype(kernel.dtype), layer, 0
            )

        kernel_LXY = matrix["kernel"]
        added = jax.lax.fori_loop(0, len(kernel_LXY), one, kernel_LXY)
        return matrix | {"kernel": added}

    return sharding.constrain(_beside(base, factors, add))
