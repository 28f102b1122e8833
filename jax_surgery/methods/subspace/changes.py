# SPDX-License-Identifier: Apache-2.0
"""The change of the moving matrices: W' = W + alpha T', of a rank that stays low.

A task is learned with alpha above 0 and removed with alpha below 0. Cutting a finished
change down to a low rank loses what it had learned; cut every few rounds, later rounds
make up for it (iterative hard thresholding).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.linalg.layers import einsum
from jax_surgery.optim.linalg.svd import svd


def change_of(params: Any, base: Matrices, trainable: Trainable) -> Matrices:
    """What the moving matrices have become, less what they were, float32."""
    return jax.tree.map(
        lambda now, was: now.astype(jnp.float32) - was,
        trainable.take(params),
        base,
    )


def moved(params: Any, change: Matrices, trainable: Trainable) -> Any:
    """The parameters with a change added to the moving matrices, rounded once."""
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    change = jax.tree.map(lambda matrix: matrix.astype(jnp.float32), change)
    return optax.apply_updates(params, trainable.put(change, wide))


@functools.partial(jax.jit, static_argnums=3)
def added(params: Any, task: Matrices, alpha: float, trainable: Trainable) -> Any:
    """The parameters with a task, W + alpha T'."""
    return moved(params, jax.tree.map(lambda t: alpha * t, task), trainable)


@functools.partial(jax.jit, static_argnums=1)
def factors(change: Matrices, rank: int) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The best factors of a rank: a [layers, inputs, rank], b [layers, rank, outputs].

    Args:
      change: of each matrix, [layers, inputs, outputs].
      rank: 0 keeps all (exact: of small matrices only).
    """

    def of(matrix):
        found = svd(matrix, min(rank or min(matrix.shape[1:]), *matrix.shape[1:]))
        return found.u_LXK * found.s_LK[:, None], found.v_LYK.swapaxes(1, 2)

    return {name: of(matrix) for name, matrix in change.items()}


def product(pairs: dict[str, tuple[jax.Array, jax.Array]]) -> Matrices:
    """The matrices [layers, inputs, outputs] that `factors` are of."""
    return {name: einsum("LXK,LKY->LXY", a, b) for name, (a, b) in pairs.items()}


@functools.partial(jax.jit, static_argnums=(2, 3))
def truncated(params: Any, base: Matrices, rank: int, trainable: Trainable) -> Any:
    """The parameters, their change from the base cut to the `rank` of best fit."""
    change = change_of(params, base, trainable)
    low = product(factors(change, rank))
    # From the base, so that what is cut is gone.
    off = jax.tree.map(lambda a, b: a - b, low, change)
    return moved(params, off, trainable)
