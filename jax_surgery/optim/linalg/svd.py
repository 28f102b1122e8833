# SPDX-License-Identifier: Apache-2.0
"""Singular value decompositions of stacks of matrices as they lie on the mesh.

Wide matrices are decomposed from a random sketch (Halko, Martinsson, Tropp 2011,
algorithms 4.4 and 5.1): products with the matrix run on it as it is sharded, and only
thin ones are factored, layer by layer (`over_layers`); an exact decomposition of a
4096-wide matrix does not finish compiling for TPUs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.optim.linalg.layers import einsum, over_layers

EXACT_WIDTH = 256  # of the smaller side; wider ones take minutes to compile for TPUs
OVERSAMPLE = 16  # columns of a sketch beyond its rank
POWER_ITERATIONS = 2  # products with M M^T that sharpen a sketch
SMALL_PART = 4  # a sketch of at most 1 / 4 of a small matrix' width pays


class SVD(NamedTuple):
    """Of each layer, largest singular values first.

    Attributes:
      u_LXK, v_LYK: orthonormal columns.
      s_LK: singular values.
    """

    u_LXK: jax.Array
    s_LK: jax.Array
    v_LYK: jax.Array

    def truncated(self, rank: int) -> "SVD":
        """The `rank` largest."""
        return SVD(
            self.u_LXK[..., :rank], self.s_LK[..., :rank], self.v_LYK[..., :rank]
        )

    def product(self) -> jax.Array:
        """The matrices that it makes, [L, X, Y]."""
        return einsum("LXK,LYK->LXY", self.u_LXK * self.s_LK[:, None], self.v_LYK)


def _exact(matrix_XY):
    u, s, vt = jnp.linalg.svd(matrix_XY, full_matrices=False)
    return u, s, vt.T


def _orthonormal(matrix_LXK):
    return over_layers(lambda m: jnp.linalg.qr(m)[0], matrix_LXK)


def exact_svd(matrix_LXY: jax.Array) -> SVD:
    """All singular vectors of every layer's matrix, float32."""
    return SVD(*over_layers(_exact, matrix_LXY.astype(jnp.float32)))


def randomised_svd(matrix_LXY: jax.Array, rank: int) -> SVD:
    """The `rank` largest singular values and vectors, from a random sketch.

    The error of the product is within a small factor of the best possible one of this
    rank (Halko et al., theorem 10.6 without iterations, better with more).

    Args:
      matrix_LXY: as it is sharded.
      rank: K.
    """
    matrix_LXY = matrix_LXY.astype(jnp.float32)
    layers, rows, cols = matrix_LXY.shape
    width = min(rank + OVERSAMPLE, rows, cols)
    sketch_LYK = jax.random.normal(jax.random.key(0), (layers, cols, width))
    range_LXK = _orthonormal(einsum("LXY,LYK->LXK", matrix_LXY, sketch_LYK))
    for _ in range(POWER_ITERATIONS):
        back_LYK = _orthonormal(einsum("LXY,LXK->LYK", matrix_LXY, range_LXK))
        range_LXK = _orthonormal(einsum("LXY,LYK->LXK", matrix_LXY, back_LYK))
    small_LYK = einsum("LXY,LXK->LYK", matrix_LXY, range_LXK)

    def of_small(small_YK, range_XK):
        # M ~ range small^T; small = q r, and r is K x K.
        q, r = jnp.linalg.qr(small_YK)
        u, s, vt = jnp.linalg.svd(r.T)
        return einsum("XK,KJ->XJ", range_XK, u), s, einsum("YK,JK->YJ", q, vt)

    return SVD(*over_layers(of_small, small_LYK, range_LXK)).truncated(rank)


def svd(matrix_LXY: jax.Array, rank: int) -> SVD:
    """The `rank` largest singular values and vectors.

    Exact where matrices are small, unless the sketch would be a small part even of
    those, which is quicker.
    """
    width = min(matrix_LXY.shape[1:])
    if width <= EXACT_WIDTH and SMALL_PART * (rank + OVERSAMPLE) > width:
        return exact_svd(matrix_LXY).truncated(rank)
    return randomised_svd(matrix_LXY, rank)


@functools.partial(jax.jit, static_argnums=1)
def singular_values(matrix_LXY: jax.Array, most: int = 64) -> jax.Array:
    """The largest singular values of every layer's matrix, [L, K], K at most `most`."""
    return svd(matrix_LXY, min(most, *matrix_LXY.shape[1:])).s_LK
