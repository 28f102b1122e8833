# SPDX-License-Identifier: Apache-2.0
"""Decompositions of stacks of matrices equal NumPy's, on one device and on eight."""

import jax.numpy as jnp
import numpy as np
import on_devices
import pytest

from jax_surgery.optim.linalg.svd import exact_svd, randomised_svd


def matrices(layers=3, rows=40, cols=24, decay=0.6, seed=0):
    """Random matrices whose singular values fall by `decay`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(layers):
        u, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
        v, _ = np.linalg.qr(rng.normal(size=(cols, cols)))
        s = decay ** np.arange(min(rows, cols))
        found.append((u[:, : len(s)] * s) @ v[:, : len(s)].T)
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_exact_equals_numpy(shape):
    matrix = matrices(rows=shape[0], cols=shape[1])
    found = exact_svd(jnp.asarray(matrix))
    np.testing.assert_allclose(
        found.s_LK, np.linalg.svd(matrix, compute_uv=False), atol=1e-5
    )
    np.testing.assert_allclose(found.product(), matrix, atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("decay", [0.7, 0.97])
def test_randomised_is_nearly_the_best_of_its_rank(shape, decay):
    rank = 8
    matrix = matrices(2, *shape, decay=decay)
    exact = exact_svd(jnp.asarray(matrix)).truncated(rank)
    found = randomised_svd(jnp.asarray(matrix), rank)
    for vectors in (found.u_LXK, found.v_LYK):
        gram = np.einsum("lxk,lxj->lkj", vectors, vectors)
        np.testing.assert_allclose(
            gram, np.broadcast_to(np.eye(rank), gram.shape), atol=1e-5
        )
    np.testing.assert_allclose(found.s_LK, exact.s_LK, rtol=1e-2)
    best, got = (
        np.linalg.norm(matrix - s.product(), axis=(1, 2)) for s in (exact, found)
    )
    assert np.all(got <= 1.01 * best + 1e-5)


def test_zero_matrices_have_no_nan():
    zero = jnp.zeros((2, 64, 48))
    found = randomised_svd(zero, 4)
    assert not np.isnan(found.product()).any() and not np.asarray(found.s_LK).any()


@pytest.mark.slow
def test_sharded_matrices_give_the_same_on_eight_devices():
    """Three layers over eight devices, matrices split over fsdp 4 x tp 2."""
    code = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding
        from jax_surgery.parallel import mesh as meshes
        from test_subspace_linalg import matrices
        from jax_surgery.parallel.mesh import MeshShape
        from jax_surgery.train import devices
        from jax_surgery.optim.linalg.svd import exact_svd, randomised_svd

        matrix = matrices(3, 128, 96, decay=0.8)
        whole = [exact_svd(jnp.asarray(matrix)).truncated(6)]
        whole.append(randomised_svd(jnp.asarray(matrix), 6))
        with devices.on_mesh(MeshShape(fsdp=4, tp=2)) as mesh:
            put = jax.device_put(matrix, NamedSharding(mesh, meshes.spec(None, "fsdp", "tp")))
            split = [jax.jit(exact_svd)(put).truncated(6)]
            split.append(jax.jit(randomised_svd, static_argnums=1)(put, 6))
        for one, eight in zip(whole, split, strict=True):
            np.testing.assert_allclose(one.s_LK, eight.s_LK, rtol=1e-4)
            np.testing.assert_allclose(one.product(), eight.product(), atol=1e-4)
        print("same")
    """
    assert on_devices.run(code).splitlines()[-1] == "same"
