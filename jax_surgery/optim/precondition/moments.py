# SPDX-License-Identifier: Apache-2.0
"""Second moments of the inputs of the moving matrices, over some text."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder, layout, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable

# Sums of x x^T by statistic (see `layout.Row`), [layers, d, d] each.
Moments = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnums=(1, 3, 4), donate_argnums=5)
def add(
    params: Any,
    config: ModelConfig,
    batch: Batch,
    compute: decoder.Compute,
    trainable: Trainable,
    moments: Moments,
) -> Moments:
    """The moments with those of one more batch; `moments` are donated.

    On a mesh they stay split over `fsdp`, [layers, d / fsdp, d] on each device.
    """
    weights_BT = (batch.segment_ids_BT > 0).astype(jnp.float32)
    if batch.moment_weights_BT is not None:
        weights_BT *= batch.moment_weights_BT
    _, new = decoder.forward_with_moments(
        params,
        config,
        batch,
        compute=compute,
        first_trained_layer=trainable.first_layer,
        moments_weight_BT=weights_BT,
    )
    assert new is not None, "weights were given"
    return sharding.constrain(
        {kind: total + new[kind] for kind, total in moments.items()}
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def zero_moments(config: ModelConfig, trainable: Trainable) -> Moments:
    """No text read yet: zeros of the moments' shapes, [layers, d, d] float32.

    They are made in place on the mesh: for a 7B model they take 22 GB.
    """
    layers = config.num_layers - trainable.first_layer
    widths = layout.statistics(config, trainable.matrices)
    return sharding.constrain(
        {kind: jnp.zeros((layers, d, d)) for kind, d in widths.items()}
    )


def second_moments(
    params: Any,
    config: ModelConfig,
    batches: Iterable[Batch],
    compute: decoder.Compute,
    trainable: Trainable,
) -> Moments:
    """Sums of w x x^T over all real tokens of the batches; forward passes only.

    w is the batch's `moment_weights_BT`, or 1.

    They are of the layers from `trainable.first_layer` on, and of the inputs of its
    matrices (`layout.Row.statistic`).
    """
    moments = zero_moments(config, trainable)
    for batch in batches:
        moments = add(params, config, batch, compute, trainable, moments)
    return moments
