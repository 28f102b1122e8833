# SPDX-License-Identifier: Apache-2.0
"""How much two tasks' subspaces overlap: principal angles (Bjoerck and Golub 1973)."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.linalg.layers import einsum
from jax_surgery.optim.linalg.svd import svd


@functools.partial(jax.jit, static_argnums=1)
def input_directions(task: Matrices, rank: int) -> dict[str, jax.Array]:
    """The `rank` first left singular vectors of each matrix, [layers, inputs, rank]."""
    return {name: svd(m, rank).u_LXK for name, m in task.items()}


@jax.jit
def cosines(one: jax.Array, other: jax.Array) -> jax.Array:
    """Cosines of the principal angles of two stacks of subspaces, [layers, rank].

    Args:
      one, other: orthonormal columns, [layers, inputs, rank].
    """
    shared = einsum("LXI,LXJ->LIJ", one, other)
    return jnp.linalg.svd(shared, compute_uv=False)


def overlaps(directions: Sequence[dict[str, jax.Array]]) -> np.ndarray:
    """Mean squared cosine of the principal angles of every two tasks, [tasks, tasks].

    1 for the same subspace, rank / inputs for two random ones. The mean is over
    angles, layers and matrices.

    Args:
      directions: of each task, see `input_directions`.
    """
    found = np.eye(len(directions))
    for (i, one), (j, other) in itertools.combinations(enumerate(directions), 2):
        squares = [(cosines(other[name], one[name]) ** 2).mean() for name in one]
        found[i, j] = found[j, i] = float(np.mean(jax.device_get(squares)))
    return found
