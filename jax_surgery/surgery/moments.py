# SPDX-License-Identifier: Apache-2.0
"""Second moments of the inputs of the moving matrices, over kept text."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.model import llama
from jax_surgery.model.config import LlamaConfig
from jax_surgery.model.trainable import Trainable
from jax_surgery.surgery.objective import Batch
from jax_surgery.surgery.precondition import Moments, moment_widths


@functools.partial(jax.jit, static_argnums=(1, 3, 4), donate_argnums=5)
def _add(params, config, batch, compute, trainable, moments):
    weights_BT = (batch["segment_ids_BT"] > 0).astype(jnp.float32)
    _, new = llama.forward_packed(
        params,
        config,
        batch,
        compute=compute,
        moments_weight_BT=weights_BT,
        first_trained_layer=trainable.first_layer,
    )
    return {kind: total + new[kind] for kind, total in moments.items()}


def zero_moments(config: LlamaConfig, trainable: Trainable) -> Moments:
    """No text read yet: zeros of the moments' shapes, [layers, d, d] float32."""
    layers = config.num_layers - trainable.first_layer
    widths = moment_widths(config, trainable)
    return {kind: jnp.zeros((layers, d, d)) for kind, d in widths.items()}


def second_moments(
    params: Any,
    config: LlamaConfig,
    batches: Iterable[Batch],
    compute: llama.Compute,
    trainable: Trainable,
) -> Moments:
    """Sums of x x^T over all real tokens of the batches; forward passes only.

    Of the layers from `trainable.first_layer`, and of the inputs that its matrices
    have (`precondition.INPUT_OF`).
    """
    moments = zero_moments(config, trainable)
    for batch in batches:
        moments = _add(params, config, batch, compute, trainable, moments)
    return moments
