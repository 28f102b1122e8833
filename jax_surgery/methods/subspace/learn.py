# SPDX-License-Identifier: Apache-2.0
"""Learning: W' = W + alpha T', of a rank that is kept low while it is learned.

Cutting a finished change down to a low rank loses what it had learned; cut every few
rounds, later rounds make up for it (iterative hard thresholding).
"""

import functools
from typing import Any

import jax

from jax_surgery.methods.subspace.rounds import change_of, moved
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.linalg import svd as linalg


@functools.partial(jax.jit, static_argnums=3)
def learn(params: Any, task: Matrices, alpha: float, trainable: Trainable) -> Any:
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
        svd = linalg.svd(matrix, min(rank or min(matrix.shape[1:]), *matrix.shape[1:]))
        return svd.u_LXK * svd.s_LK[:, None], svd.v_LYK.swapaxes(1, 2)

    return {name: of(matrix) for name, matrix in change.items()}


def product(pairs: dict[str, tuple[jax.Array, jax.Array]]) -> Matrices:
    """The matrices [layers, inputs, outputs] that `factors` are of."""
    return {n: linalg.einsum("LXK,LKY->LXY", a, b) for n, (a, b) in pairs.items()}


@functools.partial(jax.jit, static_argnums=(2, 3))
def truncated(params: Any, base: Matrices, rank: int, trainable: Trainable) -> Any:
    """The parameters, their change from the base cut to the `rank` of best fit."""
    change = change_of(params, base, trainable)
    low = product(factors(change, rank))
    # From the base, so that what is cut is gone.
    off = jax.tree.map(lambda a, b: a - b, low, change)
    return moved(params, off, trainable)
