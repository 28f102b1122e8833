# SPDX-License-Identifier: Apache-2.0
"""One training step: loss and gradients in micro-batches, then the optimizer."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.model import llama
from jax_surgery.model.config import LlamaConfig
from jax_surgery.model.trainable import ALL, Trainable
from jax_surgery.surgery import objective as objectives
from jax_surgery.surgery.objective import Batch, LossFn, Metrics, Objective, RoleRows


class TrainState(NamedTuple):
    """What a step changes: parameters, optimizer state, steps taken."""

    params: Any
    opt_state: Any
    step: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


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
    rows, tokens = segment_ids_BT.shape
    keys = segment_ids_BT + (tokens + 1) * jnp.arange(rows)[:, None]
    lengths = jax.ops.segment_sum(
        real_BT.ravel(), keys.ravel(), num_segments=rows * (tokens + 1)
    )
    return real_BT / jnp.maximum(lengths[keys], 1.0)


def attach_reference(
    batch: Batch,
    reference_params: Any,
    config: LlamaConfig,
    rows: RoleRows,
    compute: llama.Compute,
) -> Batch:
    """Adds the frozen model's final hidden states on the retain rows, and its head.

    Leaves `reference_hidden_RTD` alone where the batch has it (the cached
    reference); both are exact.
    """
    if not rows.retain:
        return batch
    batch = dict(batch)
    role = slice(rows.unlearn + rows.update, None)
    if "reference_hidden_RTD" not in batch:
        batch["reference_hidden_RTD"] = jax.lax.stop_gradient(
            llama.forward(
                reference_params,
                config,
                batch["tokens_BT"][role],
                batch["segment_ids_BT"][role],
                batch["positions_BT"][role],
                compute=compute,
            )
        )
    batch["reference_head_DV"] = llama.head_kernel(reference_params)
    return batch


def split_rows(rows: RoleRows, parts: int) -> RoleRows:
    """The rows of one of `parts` micro-batches.

    Raises:
      ValueError: a role's rows do not divide by `parts`.
    """
    for name in ("unlearn", "update", "retain"):
        count = getattr(rows, name)
        if count % parts:
            raise ValueError(
                f"data.rows_{name}={count} does not divide into "
                f"optimizer.accumulate={parts} micro-batches; use a multiple of {parts}."
            )
    return RoleRows(
        *(getattr(rows, n) // parts for n in ("unlearn", "update", "retain"))
    )


def _micro_batches(batch: Batch, rows: RoleRows, parts: int) -> Batch:
    """[B, ...] -> [parts, B / parts, ...], each part with every role's share."""
    ends = (rows.unlearn, rows.unlearn + rows.update)

    def split(array):
        roles = jnp.split(array, ends)
        pieces = [r.reshape(-1, parts, *r.shape[1:]).swapaxes(0, 1) for r in roles]
        return jnp.concatenate(pieces, axis=1)

    def split_retain(array):
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    whole = {"reference_head_DV", "denominators"}
    return {
        key: split_retain(value) if key == "reference_hidden_RTD" else split(value)
        for key, value in batch.items()
        if key not in whole
    }


def loss_and_gradients(
    loss_fn: LossFn, params: Any, batch: Batch, rows: RoleRows, parts: int
) -> tuple[Metrics, Any]:
    """Metrics and gradients of one batch, accumulated over `parts` micro-batches.

    `loss_fn` is made for a micro-batch's rows (`split_rows`). Denominators are the
    whole batch's, so the result does not depend on `parts`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    shared = {"denominators": objectives.denominators(batch, rows)}
    if "reference_head_DV" in batch:
        shared["reference_head_DV"] = batch["reference_head_DV"]
    if parts == 1:
        (_, metrics), grads = grad_fn(params, batch | shared)
        return metrics, grads

    def body(carry, micro):
        (_, metrics), grads = grad_fn(params, micro | shared)
        return jax.tree.map(jnp.add, carry, (metrics, grads)), None

    micros = _micro_batches(batch, rows, parts)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(lambda: grad_fn(params, first | shared))
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0][1], shapes[1])
    )
    (metrics, grads), _ = jax.lax.scan(body, zeros, micros)
    return metrics, grads


def make_train_step(
    config: LlamaConfig,
    objective: Objective,
    rows: RoleRows,
    optimizer: optax.GradientTransformation,
    *,
    compute: llama.Compute = llama.DEFAULT_COMPUTE,
    average: str = "sequences",
    accumulate: int = 1,
    trainable: Trainable = ALL,
):
    """The jitted `step(state, batch, reference_params) -> (state, metrics)`.

    `state` is donated.
    """
    loss_fn = objectives.make_loss_fn(
        config, objective, split_rows(rows, accumulate), compute, trainable
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch, reference_params: Any):
        batch = attach_reference(batch, reference_params, config, rows, compute)
        batch["position_weights_BT"] = position_weights(
            batch["segment_ids_BT"], average
        )
        metrics, grads = loss_and_gradients(
            loss_fn, state.params, batch, rows, accumulate
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, trainable.mask(updates))
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return TrainState(params, opt_state, state.step + 1), metrics

    return step
