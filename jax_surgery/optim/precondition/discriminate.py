# SPDX-License-Identifier: Apache-2.0
"""Discrimination: the part of a task matrix that leaves the retained tasks alone.

none          T' = T
gram_schmidt  the paper's: T's singular vectors without what lies along those of the
              similar tasks' matrices, singular values kept:
              SV_i' = SV_i - sum_o <SV_i, SV_o> / <SV_o, SV_o> SV_o
ridge         T' = (A / tau + eps I)^-1 T, with A = sum_o w_o E[x x^T] over the inputs of
              all retained tasks and tau = tr A / d. A soft Gram-Schmidt on the side of the
              inputs: directions that retained tasks use shrink by their second moment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.linalg.layers import einsum
from jax_surgery.optim.linalg.svd import SVD, svd
from jax_surgery.optim.precondition import ridge


class Similar(NamedTuple):
    """Singular vectors of the similar tasks' matrices, side by side.

    Attributes:
      vectors: of each matrix, (U [layers, inputs, K], V [layers, outputs, K]); K is
        the rank times the number of tasks.
    """

    vectors: dict[str, tuple[jax.Array, jax.Array]]


# The knowledge of the retained tasks; () where nothing is discriminated.
Knowledge = ridge.Factors | Similar | tuple[()]


def similar_of(tasks: Sequence[Matrices], rank: int) -> Similar:
    """The `rank` first singular vectors of each similar task's matrices; 0: all.

    A matrix of a lower rank has fewer: the vectors of its zero singular values say
    nothing of the task, and are zero here.

    Raises:
      ValueError: no tasks.
    """
    if not tasks:
        raise ValueError(
            "Gram-Schmidt has 0 similar tasks; give one or more, or discriminate by "
            "'none' or 'ridge'."
        )

    def vectors(name):
        found = [
            _of_nonzero(svd(task[name], rank or min(task[name].shape[1:])))
            for task in tasks
        ]
        left, right = (jnp.concatenate(side, axis=-1) for side in zip(*found))
        return left, right

    return Similar({name: vectors(name) for name in tasks[0]})


def _of_nonzero(found: SVD) -> tuple[jax.Array, jax.Array]:
    """Both sides' vectors, those of singular values that are rounding errors zeroed."""
    width = max(found.u_LXK.shape[1], found.v_LYK.shape[1])
    least_L1 = width * jnp.finfo(jnp.float32).eps * found.s_LK[:, :1]
    real_L1K = (found.s_LK > least_L1)[:, None]
    return found.u_LXK * real_L1K, found.v_LYK * real_L1K


def discriminate(task: Matrices, knowledge: Knowledge, rank: int = 0) -> Matrices:
    """T' of a task matrix T.

    Args:
      task: T, [layers, inputs, outputs] of each matrix.
      knowledge: see `ridge.factorise`, `similar_of`; () leaves T as it is.
      rank: singular vectors of T that Gram-Schmidt keeps; 0 keeps all (exact).
    """
    if isinstance(knowledge, ridge.Factors):
        return ridge.solve(knowledge, task)
    if isinstance(knowledge, Similar):
        return {
            name: _without(matrix, *knowledge.vectors[name], rank)
            for name, matrix in task.items()
        }
    return task


def _without(matrix_LXY: jax.Array, u_LXK, v_LYK, rank: int) -> jax.Array:
    """U' diag(s) V'^T of T's singular vectors without the others.

    It is linear in U diag(s) V^T, so T need not be decomposed where all of it is kept.
    """
    if rank:
        matrix_LXY = svd(matrix_LXY, rank).product()
    shared_LKY = einsum("LXK,LXY->LKY", u_LXK, matrix_LXY)
    matrix_LXY -= einsum("LXK,LKY->LXY", u_LXK, shared_LKY)
    shared_LXK = einsum("LXY,LYK->LXK", matrix_LXY, v_LYK)
    return matrix_LXY - einsum("LXK,LYK->LXY", shared_LXK, v_LYK)
