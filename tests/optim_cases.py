# SPDX-License-Identifier: Apache-2.0
"""A small model's parameters, and gradients that optimizers are tested with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig

# q, o, gate, up, down, embedding and head are factored by Adafactor; k and v, with
# 64 outputs, are not.
CONFIG = ModelConfig(130, 128, 160, 3, 4, 2, 32, initializer_range=0.3)


@functools.cache
def trees(count, config=CONFIG):
    """Parameters, and `count` random gradients of different sizes."""
    params = decoder.init_params(config, 0)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    gradients = [
        jax.tree.unflatten(
            tree,
            [
                jnp.asarray(0.1 * (n + 1) * rng.standard_normal(x.shape), jnp.float32)
                for x in leaves
            ],
        )
        for n in range(count)
    ]
    return params, gradients
