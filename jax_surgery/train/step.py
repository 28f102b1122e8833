# SPDX-License-Identifier: Apache-2.0
"""One training step: loss and gradients in micro-batches, then the optimizer."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import objective as objectives
from jax_surgery.methods.objective import LossFn, Metrics, Objective
from jax_surgery.models import llama, output_head, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL, Trainable
from jax_surgery.optim import lora


class TrainState(NamedTuple):
    """What a step changes: parameters (or factors of low-rank deltas, see `lora`),
    optimizer state, steps taken."""

    params: Any
    opt_state: Any
    step: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, laid out over the mesh like its parameters."""
    opt_state = jax.jit(lambda p: sharding.constrain(optimizer.init(p)))(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))


def position_weights(segment_ids_BT: jax.Array, average: str) -> jax.Array:
    """Weight of each position in the KL, [B, T] float32, 0 on padding.

    Args:
      segment_ids_BT: packed documents 1, 2, ..., padding 0.
      average: "tokens" weighs every position alike, "sequences" every document
        (a document's positions weigh 1 / its length).
    """
    real_BT = (segment_ids_BT > 0).astype(jnp.float32)
    if average == "tokens":
        return real_BT
    # Documents lie one after another, so a document's length is its last token's
    # place less its first one's. Both come from running maxima: sums by segment would
    # be scatters, which send all rows to all devices.
    tokens = segment_ids_BT.shape[1]
    place_T = jnp.arange(tokens)
    edge_BT = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    starts_BT = jnp.pad(edge_BT, ((0, 0), (1, 0)), constant_values=True)
    ends_BT = jnp.pad(edge_BT, ((0, 0), (0, 1)), constant_values=True)
    first_BT = jax.lax.cummax(jnp.where(starts_BT, place_T, 0), axis=1)
    last_BT = jax.lax.cummin(jnp.where(ends_BT, place_T, tokens), axis=1, reverse=True)
    return real_BT / (last_BT - first_BT + 1)


def attach_reference(
    batch: Batch,
    reference_params: Any,
    config: ModelConfig,
    rows: RoleRows,
    compute: llama.Compute,
) -> Batch:
    """Adds the frozen model's final hidden states on the retain rows, and its head.

    Leaves `reference_hidden_RTD` alone where the batch has it (the cached
    reference); both are exact.
    """
    if not rows.retain:
        return batch
    if batch.reference_hidden_RTD is None:
        retain = batch.text.take(rows, "retain")
        hidden = llama.forward_packed(reference_params, config, retain, compute=compute)
        batch = batch.replace(reference_hidden_RTD=jax.lax.stop_gradient(hidden))
    head_SDV = output_head.copies(reference_params, compute)
    return batch.replace(reference_head_SDV=head_SDV)


def loss_and_gradients(
    loss_fn: LossFn, params: Any, batch: Batch, rows: RoleRows, parts: int
) -> tuple[Metrics, Any]:
    """Metrics and gradients of one batch, accumulated over `parts` micro-batches.

    `loss_fn` is made for a micro-batch's rows (`RoleRows.split`). Denominators are the
    whole batch's, so the result does not depend on `parts`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    batch = batch.replace(denominators=objectives.denominators(batch, rows))
    if parts == 1:
        (_, metrics), grads = grad_fn(params, batch)
        return metrics, grads
    shared = batch.shared

    def body(carry, micro):
        (_, metrics), grads = grad_fn(params, micro.replace(**shared))
        return jax.tree.map(jnp.add, carry, (metrics, grads)), None

    micros = batch.micro_batches(rows, parts)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(lambda: grad_fn(params, first.replace(**shared)))
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0][1], shapes[1])
    )
    (metrics, grads), _ = jax.lax.scan(body, zeros, micros)
    return metrics, grads


def make_train_step(
    config: ModelConfig,
    objective: Objective,
    rows: RoleRows,
    optimizer: optax.GradientTransformation,
    *,
    compute: llama.Compute = llama.DEFAULT_COMPUTE,
    average: str = "sequences",
    accumulate: int = 1,
    trainable: Trainable = ALL,
    low_rank: lora.LowRank = lora.FULL,
):
    """The jitted `step(state, batch, reference_params) -> (state, metrics)`.

    `state` is donated. Of `reference_params` only `output_head.parameters` are needed
    where the batch has `reference_hidden_RTD` (the cached reference). With low-rank
    deltas they are the base as well, needed whole, and the state holds the factors
    alone, all of which move in the layers of `trainable`.
    """
    if low_rank.rank:
        trainable = Trainable(trainable.first_layer)
    loss_fn = objectives.make_loss_fn(
        config, objective, rows.split(accumulate), compute, trainable
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch, reference_params: Any):
        batch = attach_reference(batch, reference_params, config, rows, compute)
        weights_BT = position_weights(batch.segment_ids_BT, average)
        batch = batch.replace(position_weights_BT=weights_BT)

        def of_moving(params, batch):
            if low_rank.rank:
                params = lora.attach(reference_params, params, low_rank)
            return loss_fn(params, batch)

        metrics, grads = loss_and_gradients(
            of_moving, state.params, batch, rows, accumulate
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, trainable.mask(updates))
        metrics["gradient_norm"] = optax.tree.norm(grads)
        after = TrainState(params, opt_state, state.step + 1)
        return sharding.constrain(after), metrics

    return step
