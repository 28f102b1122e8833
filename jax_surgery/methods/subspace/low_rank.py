# SPDX-License-Identifier: Apache-2.0
"""LoRA with the same token weights: a round in which an optimizer moves low-rank factors."""

import functools
from typing import Any, NamedTuple

import jax
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import identify, learn
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim import lora


class AdapterState(NamedTuple):
    """What the steps change: factors (`lora.Factors`) and their optimizer's state."""

    factors: Any
    opt_state: Any


def make_step(
    config: ModelConfig,
    compute: decoder.Compute,
    loss: identify.TaskLoss,
    low_rank: lora.LowRank,
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
):
    """The jitted `step(state, batch, base) -> (state, metrics)`; `state` is donated.

    It makes `identify.pull` of the base with the deltas smaller. Factors that are not
    `trainable` stay as they are, whatever the optimizer makes of them.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: AdapterState, batch: Batch, base: Any):
        def of_factors(factors):
            params = lora.attach(base, factors, low_rank)
            return identify.pull(params, config, batch, loss, compute, trainable)

        (value, sums), gradient = jax.value_and_grad(of_factors, has_aux=True)(
            state.factors
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.factors)
        factors = optax.apply_updates(state.factors, trainable.mask(updates))
        after = sharding.constrain(AdapterState(factors, opt_state))
        return after, sums | {"loss": value, "gradient_norm": optax.tree.norm(gradient)}

    return step


def as_pairs(
    factors: Any, low_rank: lora.LowRank
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """a [layers, inputs, rank], b [layers, rank, outputs] of each matrix' delta, the
    scale alpha / rank in b."""
    found = {}
    for block in factors["layers"].values():
        for name, pair in block.items():
            a, b = pair["lora_a"], low_rank.scale * pair["lora_b"]
            layers, rank = a.shape[0], a.shape[-1]
            found[name] = (a.reshape(layers, -1, rank), b.reshape(layers, rank, -1))
    return found


def change(factors: Any, low_rank: lora.LowRank) -> Matrices:
    """The deltas, [layers, inputs, outputs] each."""
    return learn.product(as_pairs(factors, low_rank))
