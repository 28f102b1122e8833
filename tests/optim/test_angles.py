# SPDX-License-Identifier: Apache-2.0
"""How much subspaces overlap, against SciPy's angles and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import subspace_model as cases

from jax_surgery.optim.linalg import angles


def numpy_directions(matrix_XY, rank):
    return np.linalg.svd(np.asarray(matrix_XY, np.float64))[0][:, :rank]


def test_directions_are_the_first_left_singular_vectors():
    task = cases.random_matrices(0)
    for name, found in angles.input_directions(task, 3).items():
        layers, inputs, _ = task[name].shape
        assert found.shape == (layers, inputs, 3)
        for layer in range(layers):
            wanted = numpy_directions(task[name][layer], 3)
            # The same subspace: its projection is unique, vectors' signs are not.
            one = np.asarray(found[layer], np.float64)
            np.testing.assert_allclose(one @ one.T, wanted @ wanted.T, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_cosines_are_scipys(rank):
    one, other = (
        angles.input_directions(cases.random_matrices(seed), rank) for seed in (0, 1)
    )
    for name in one:
        found = angles.cosines(one[name], other[name])
        for layer, cosines in enumerate(found):
            # In float64: of float32 the reference has errors of its own.
            sides = (np.asarray(of[name][layer], np.float64) for of in (one, other))
            wanted = scipy.linalg.subspace_angles(*sides)
            np.testing.assert_allclose(
                cosines, np.sort(np.cos(wanted))[::-1], atol=1e-5
            )


def test_overlaps_are_mean_squares_of_cosines():
    tasks = [cases.random_matrices(seed) for seed in range(3)]
    found = angles.overlaps([angles.input_directions(task, 4) for task in tasks])
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        squares = []
        for name in tasks[i]:
            for one, other in zip(tasks[i][name], tasks[j][name], strict=True):
                both = numpy_directions(one, 4).T @ numpy_directions(other, 4)
                # Singular values' squares sum to the Frobenius norm's.
                squares.append((both**2).sum() / 4)
        assert found[i, j] == pytest.approx(np.mean(squares), rel=1e-3)


def test_a_subspace_overlaps_with_itself_and_not_with_what_is_orthogonal():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(2, 16, 16)))[0].astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(2, 4, 4)))[0].astype(np.float32)
    one, same, half, other = (
        {"up": jnp.asarray(b)}
        for b in (
            basis[..., :4],
            basis[..., :4] @ turn,
            basis[..., 2:6],
            basis[..., 4:8],
        )
    )
    found = angles.overlaps([one, same, half, other])[0]
    np.testing.assert_allclose(found, [1, 1, 0.5, 0], atol=1e-5)


def test_random_subspaces_overlap_by_rank_over_inputs():
    rng = np.random.default_rng(0)
    one, other = (
        angles.input_directions({"up": jnp.asarray(rng.normal(size=(200, 16, 16)))}, 4)
        for _ in range(2)
    )
    assert angles.overlaps([one, other])[0, 1] == pytest.approx(4 / 16, abs=0.02)
