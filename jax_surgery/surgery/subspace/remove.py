# SPDX-License-Identifier: Apache-2.0
"""Removal: W' = W - alpha T', the dual of `learn`."""

import functools
from typing import Any

import jax

from jax_surgery.model.trainable import Matrices, Trainable
from jax_surgery.surgery.subspace.rounds import moved


@functools.partial(jax.jit, static_argnums=3)
def remove(params: Any, task: Matrices, alpha: float, trainable: Trainable) -> Any:
    """The parameters without a task.

    Args:
      task: T' of the moving matrices, [layers, inputs, outputs] each.
      alpha: how much of it; 1 is all.
    """
    return moved(params, jax.tree.map(lambda t: -alpha * t, task), trainable)
