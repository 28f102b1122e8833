# SPDX-License-Identifier: Apache-2.0
"""Cholesky factors by blocks and solves with them equal float64's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.optim.linalg import cholesky


def moment(width, ridge, seed=0):
    """A moment of fewer tokens than it is wide, with a ridge; float32."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(width // 2, width)) * 0.99 ** np.arange(width)
    found = inputs.T @ inputs
    return (found / found.trace() * width + ridge * np.eye(width)).astype(np.float32)


# Narrower than blocks are used for, whole blocks, and one column more.
@pytest.mark.parametrize("width", [300, 768, 769])
def test_factors_and_solutions_equal_float64(width, monkeypatch):
    # Narrow matrices go to the library: what it would do must not decide the others.
    if width > cholesky.WHOLE_WIDTH:
        monkeypatch.setattr(jax.scipy.linalg, "cho_solve", None)
    matrix = moment(width, 1e-2)
    exact = matrix.astype(np.float64)
    lower = jax.jit(cholesky.cholesky)(matrix)
    np.testing.assert_allclose(lower, np.linalg.cholesky(exact), atol=2e-5)
    assert not np.triu(lower, 1).any()
    right = np.random.default_rng(1).normal(size=(width, 5)).astype(np.float32)
    found = jax.jit(cholesky.solve)(lower, right)
    wanted = np.linalg.solve(exact, right)
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_of_wide_matrices_the_upper_triangle_is_not_read():
    matrix = moment(600, 1e-2)
    garbage = np.tril(matrix) + np.triu(np.full_like(matrix, 7.0), 1)
    np.testing.assert_array_equal(
        cholesky.cholesky(jnp.asarray(garbage)), cholesky.cholesky(jnp.asarray(matrix))
    )


def test_the_solution_is_as_near_as_the_librarys_at_a_small_ridge():
    """Residuals of A x = b, where A's condition is 2e7."""
    matrix = moment(600, 1e-5)
    right = np.random.default_rng(1).normal(size=(600, 3)).astype(np.float32)
    exact = matrix.astype(np.float64)

    def residual(lower, solve):
        return np.linalg.norm(exact @ np.asarray(solve(lower, right), float) - right)

    ours = residual(cholesky.cholesky(jnp.asarray(matrix)), cholesky.solve)
    library = residual(
        jnp.linalg.cholesky(matrix), lambda a, b: jax.scipy.linalg.cho_solve((a, 1), b)
    )
    assert ours < 2 * library


def test_what_is_not_positive_definite_gives_nan():
    matrix = moment(600, 1e-2)
    matrix[550, 550] = -1.0
    assert np.isnan(cholesky.cholesky(jnp.asarray(matrix))).any()
