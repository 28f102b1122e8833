# SPDX-License-Identifier: Apache-2.0
"""Second moments of the inputs of every weight matrix, over kept text."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.model import llama
from jax_surgery.model.config import LlamaConfig
from jax_surgery.surgery.objective import Batch
from jax_surgery.surgery.precondition import Moments


@functools.partial(jax.jit, static_argnums=(1, 3), donate_argnums=4)
def _add(params, config, batch, compute, moments):
    weights_BT = (batch["segment_ids_BT"] > 0).astype(jnp.float32)
    _, new = llama.forward(
        params,
        config,
        batch["tokens_BT"],
        batch["segment_ids_BT"],
        batch["positions_BT"],
        compute=compute,
        moments_weight_BT=weights_BT,
    )
    return jax.tree.map(jnp.add, moments, new)


def zero_moments(config: LlamaConfig) -> Moments:
    """No text read yet: zeros of the moments' shapes, [layers, d, d] float32."""
    inner = config.num_heads * config.head_dim
    widths = {
        "attention_in": config.hidden_size,
        "attention_out": inner,
        "mlp_in": config.hidden_size,
        "mlp_hidden": config.intermediate_size,
    }
    return {k: jnp.zeros((config.num_layers, d, d)) for k, d in widths.items()}


def second_moments(
    params: Any,
    config: LlamaConfig,
    batches: Iterable[Batch],
    compute: llama.Compute,
) -> Moments:
    """Sums of x x^T over all real tokens of the batches; forward passes only."""
    moments = zero_moments(config)
    for batch in batches:
        moments = _add(params, config, batch, compute, moments)
    return moments
