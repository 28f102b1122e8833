# SPDX-License-Identifier: Apache-2.0
"""Discrimination against NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subspace_model as cases
from subspace_model import COMPUTE, CONFIG, EVERY

from jax_surgery.models.layout import MATRICES
from jax_surgery.optim.precondition import discriminate
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.optim.precondition.moments import second_moments


@pytest.fixture(scope="module")
def moments():
    batch = cases.batch_of(5)
    return second_moments(cases.params_of(), CONFIG, [batch], COMPUTE, EVERY)


def numpy_svd(matrix_LXY, rank: int = 0):
    """(u [L, X, K], s [L, K], v [L, Y, K]), float64; rank 0: all."""
    u, s, vt = np.linalg.svd(np.asarray(matrix_LXY, np.float64), full_matrices=False)
    rank = rank or s.shape[-1]
    return u[..., :rank], s[:, :rank], vt.swapaxes(1, 2)[..., :rank]


def paper(matrix_LXY, others, rank: int, rank_of_others: int):
    """SV_i' = SV_i - sum_o <SV_i, SV_o> / <SV_o, SV_o> SV_o, vector by vector."""
    found = np.zeros(matrix_LXY.shape)
    u, s, v = numpy_svd(matrix_LXY, rank)
    known = [numpy_svd(other, rank_of_others) for other in others]
    for layer in range(len(found)):
        for i in range(s.shape[1]):
            left, right = u[layer, :, i].copy(), v[layer, :, i].copy()
            for own, side in ((left, 0), (right, 2)):
                was = own.copy()
                for other in known:
                    for sv in other[side][layer].T:
                        own -= (was @ sv) / (sv @ sv) * sv
            found[layer] += s[layer, i] * np.outer(left, right)
    return found


def test_without_a_method_nothing_is_discriminated():
    task = cases.random_matrices(0)
    found = discriminate.discriminate(task, ())
    jax.tree.map(np.testing.assert_array_equal, found, task)


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_ridge_solves_with_the_moments_of_each_matrix_inputs(moments, ridge):
    task = cases.random_matrices(0)
    found = discriminate.discriminate(task, ridges.factorise(moments, ridge))
    assert set(found) == set(task)
    for name, matrix in task.items():
        moment = np.asarray(moments[MATRICES[name].statistic], np.float64)
        width = moment.shape[-1]
        tau = np.trace(moment, axis1=1, axis2=2)[:, None, None] / width
        wanted = np.linalg.solve(
            moment / tau + ridge * np.eye(width), np.asarray(matrix, np.float64)
        )
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-4 * scale)


def test_the_scale_of_moments_does_not_matter(moments):
    task = cases.random_matrices(0)
    thousand = {kind: 1024 * moment for kind, moment in moments.items()}
    one, other = (
        discriminate.discriminate(task, ridges.factorise(m, 0.1))
        for m in (moments, thousand)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_ridge_shrinks_what_kept_inputs_span_and_nothing_else():
    """Moments of rank one: along it the change shrinks by (d + ridge) / ridge."""
    direction = np.zeros(16, np.float32)
    direction[3] = 1
    knowledge = ridges.factorise({"mlp_in": jnp.diag(direction)[None]}, 0.01)
    found = discriminate.discriminate({"up": jnp.ones((1, 16, 24))}, knowledge)["up"][0]
    np.testing.assert_allclose(found[3], 1 / 16.01, rtol=1e-4)
    np.testing.assert_allclose(np.delete(found, 3, 0), 1 / 0.01, rtol=1e-4)


@pytest.mark.parametrize("similar", [1, 2])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("shape", [(2, 16, 24), (1, 24, 16), (2, 16, 16)])
def test_gram_schmidt_is_the_papers(similar, rank, shape):
    rng = np.random.default_rng(rank)
    task, *others = (
        rng.normal(size=shape).astype(np.float32) for _ in range(1 + similar)
    )
    knowledge = discriminate.similar_of([{"up": jnp.asarray(o)} for o in others], 4)
    assert knowledge.vectors["up"][0].shape == (shape[0], shape[1], 4 * similar)
    assert knowledge.vectors["up"][1].shape == (shape[0], shape[2], 4 * similar)
    found = discriminate.discriminate({"up": jnp.asarray(task)}, knowledge, rank)["up"]
    wanted = paper(task, others, rank, 4)
    assert np.abs(wanted - task).max() > 0.1  # something is removed
    np.testing.assert_allclose(found, wanted, atol=3e-4)


def test_what_is_left_is_orthogonal_to_a_single_similar_task():
    task, other = cases.random_matrices(0), cases.random_matrices(1)
    knowledge = discriminate.similar_of([other], 5)
    for name, found in discriminate.discriminate(task, knowledge).items():
        u, _, v = numpy_svd(other[name], 5)
        left = np.asarray(found, np.float64)
        norm = np.linalg.norm(left)
        assert norm > 0.1 * np.linalg.norm(task[name])
        assert np.abs(u.swapaxes(1, 2) @ left).max() < 1e-5 * norm
        assert np.abs(left @ v).max() < 1e-5 * norm


def test_a_task_without_its_own_directions_is_nothing():
    task = cases.random_matrices(0)
    left = discriminate.discriminate(task, discriminate.similar_of([task], 0))
    assert cases.norm(left) < 1e-5 * cases.norm(task)


def test_vectors_of_zero_singular_values_remove_nothing():
    """A similar task of rank two, and one that has no gradient in some layer."""
    rng = np.random.default_rng(0)
    other = rng.normal(size=(3, 16, 2)) @ rng.normal(size=(3, 2, 24))
    other[1] = 0
    task = rng.normal(size=(3, 16, 24)).astype(np.float32)
    knowledge = discriminate.similar_of([{"up": jnp.asarray(other, jnp.float32)}], 6)
    found = discriminate.discriminate({"up": jnp.asarray(task)}, knowledge)["up"]
    wanted = paper(task, [other], 0, 2)
    wanted[1] = task[1]
    np.testing.assert_allclose(found, wanted, atol=3e-4)


def test_no_similar_tasks_are_told():
    with pytest.raises(ValueError, match="0 similar tasks; give one or more"):
        discriminate.similar_of([], 4)
