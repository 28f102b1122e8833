# SPDX-License-Identifier: Apache-2.0
"""Removal: W' = W - alpha T', the dual of `learn`."""

from typing import Any

from jax_surgery.methods.subspace.learn import learn
from jax_surgery.models.trainable import Matrices, Trainable


def remove(params: Any, task: Matrices, alpha: float, trainable: Trainable) -> Any:
    """The parameters without a task.

    Args:
      task: T' of the moving matrices, [layers, inputs, outputs] each.
      alpha: how much of it; 1 is all.
    """
    return learn(params, task, -alpha, trainable)
