# SPDX-License-Identifier: Apache-2.0
"""Cholesky factors of one wide matrix, and solving with them.

For a TPU the compiler writes the library's routines out block after block: a factor of
width 11008 took it 232 s, a solve of width 1024 took 36 s and one of 4096 was not
compiled in 180 s. Here a loop goes over the blocks, whose body is a product with all that
is done so far, and a small factor or triangular solve. Products
do not leave out the half that is zero: a factor takes 2 n^3 operations in place of
n^3 / 3, a solve 2 n^2 a column in each direction in place of n^2. No inverse is formed.
"""

import functools

import jax
import jax.numpy as jnp

WHOLE_WIDTH = 512  # up to which the library's routines are used
BLOCK = 256

# float32 everywhere: rounding errors of bfloat16 products exceed a small ridge.
_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _filled(matrix_XX):
    """The matrix with ones on a longer diagonal, so that it is whole blocks wide."""
    width = len(matrix_XX)
    if not (fill := -width % BLOCK):
        return matrix_XX
    rest = jnp.arange(width, width + fill)
    matrix_XX = jnp.pad(matrix_XX, ((0, fill), (0, fill)))
    return matrix_XX.at[rest, rest].set(1.0)


def cholesky(matrix_XX: jax.Array) -> jax.Array:
    """The lower factor of a positive definite matrix, its upper triangle zero.

    Of wide matrices only the lower triangle is read. Where rounding leaves no positive
    definite matrix the result has nan.
    """
    width = len(matrix_XX)
    if width <= WHOLE_WIDTH:
        return jnp.linalg.cholesky(matrix_XX)
    matrix_XX = _filled(matrix_XX)
    places = jnp.arange(len(matrix_XX))

    def column(block, matrix_XX):
        # Columns before `start` hold the factor, those from it on the matrix.
        start = block * BLOCK
        done_BX = jax.lax.dynamic_slice_in_dim(matrix_XX, start, BLOCK)
        done_BX = jnp.where(places < start, done_BX, 0.0)
        panel_XB = jax.lax.dynamic_slice_in_dim(matrix_XX, start, BLOCK, axis=1)
        panel_XB -= _dot(matrix_XX, done_BX.T)
        own_BB = jax.lax.dynamic_slice_in_dim(panel_XB, start, BLOCK)
        own_BB = jnp.linalg.cholesky(own_BB, symmetrize_input=False)
        panel_XB = jnp.where(places[:, None] >= start + BLOCK, panel_XB, 0.0)
        below_BX = jax.scipy.linalg.solve_triangular(own_BB, panel_XB.T, lower=True)
        column_XB = jax.lax.dynamic_update_slice_in_dim(below_BX.T, own_BB, start, 0)
        return jax.lax.dynamic_update_slice_in_dim(matrix_XX, column_XB, start, 1)

    blocks = len(places) // BLOCK
    return jax.lax.fori_loop(0, blocks, column, matrix_XX)[:width, :width]


def solve_lower(
    lower_XX: jax.Array, matrix_XY: jax.Array, transposed: bool = False
) -> jax.Array:
    """L^-1 M of a lower factor L, or L^-T M."""
    width = len(lower_XX)
    if width <= WHOLE_WIDTH:
        return jax.scipy.linalg.solve_triangular(
            lower_XX, matrix_XY, int(transposed), lower=True
        )
    lower_XX = _filled(lower_XX)
    matrix_XY = jnp.pad(matrix_XY, ((0, len(lower_XX) - width), (0, 0)))
    places = jnp.arange(len(lower_XX))
    blocks = len(places) // BLOCK

    def rows(step, matrix_XY):
        # What is solved is in place; `others` are its shares in this block's rows.
        block = blocks - 1 - step if transposed else step
        start = block * BLOCK
        if transposed:
            others_BX = jax.lax.dynamic_slice_in_dim(lower_XX, start, BLOCK, axis=1).T
            others_BX = jnp.where(places >= start + BLOCK, others_BX, 0.0)
        else:
            others_BX = jax.lax.dynamic_slice_in_dim(lower_XX, start, BLOCK)
            others_BX = jnp.where(places < start, others_BX, 0.0)
        own_BB = jax.lax.dynamic_slice(lower_XX, (start, start), (BLOCK, BLOCK))
        right_BY = jax.lax.dynamic_slice_in_dim(matrix_XY, start, BLOCK)
        solved_BY = jax.scipy.linalg.solve_triangular(
            own_BB, right_BY - _dot(others_BX, matrix_XY), int(transposed), lower=True
        )
        return jax.lax.dynamic_update_slice_in_dim(matrix_XY, solved_BY, start, 0)

    return jax.lax.fori_loop(0, blocks, rows, matrix_XY)[:width]


def solve(lower_XX: jax.Array, matrix_XY: jax.Array) -> jax.Array:
    """(L L^T)^-1 M of a lower factor L, by two triangular solves."""
    return solve_lower(lower_XX, solve_lower(lower_XX, matrix_XY), transposed=True)
