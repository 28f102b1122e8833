# SPDX-License-Identifier: Apache-2.0
"""Relearning: what an attacker does to a model from which a task was removed."""

import functools
from typing import Any

import jax
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import identify
from jax_surgery.models import llama, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL

CROSS_ENTROPY = identify.TaskLoss("cross_entropy", 1.0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def relearn_step(
    config: ModelConfig,
    compute: llama.Compute,
    rate: float,
    params: Any,
    opt_state: Any,
    batch: Batch,
) -> tuple[Any, Any]:
    """One step of Adam on every parameter, of the cross entropy of what is pushed up.

    Args:
      rate: the learning rate.
      params, opt_state: see `optax.adam`; donated.
      batch: packed rows with `token_weights_BT` below 0 and `target_log_odds_BT`.
    """

    def loss(params):
        return identify.pull(params, config, batch, CROSS_ENTROPY, compute, ALL)[0]

    updates, opt_state = optax.adam(rate).update(jax.grad(loss)(params), opt_state)
    return sharding.constrain((optax.apply_updates(params, updates), opt_state))
