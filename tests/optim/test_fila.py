# SPDX-License-Identifier: Apache-2.0
"""FILA against NumPy, in the axes of its authors' code, and deltas that begin with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim import fila, lora
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import _decays

CONFIG = ModelConfig(61, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
LOW_RANK = LowRank(rank=3, alpha=6.0)
forward = jax.jit(decoder.forward, static_argnums=1)
begun_factors = jax.jit(fila.factors, static_argnums=(3, 4))
start = jax.jit(fila.start, static_argnums=(3, 4))


@pytest.fixture(scope="module")
def case():
    """(base, kernels, importance for unlearning, for retaining)."""
    base, rng = decoder.init_params(CONFIG, 0), np.random.default_rng(0)
    kernels = Trainable(0, LOW_RANK.targets).take(base)
    draw = lambda: {n: jnp.square(rng.normal(size=k.shape)) for n, k in kernels.items()}
    return base, kernels, draw(), draw()


def numpys(weights, unlearn, retain, rank, scale):
    """B A of the paper, [outputs, inputs]: W_res = W - scale B A."""
    rho = unlearn / (1e-5 + retain)
    w = np.sqrt(rho.sum(1))
    u, s, vt = np.linalg.svd(w[:, None] * weights, full_matrices=False)
    root = np.sqrt(s[:rank] / scale)
    b = (u[:, :rank] * root) / (w[:, None] + 1e-5)
    return b @ (root[:, None] * vt[:rank])


def test_factors_equal_numpys(case):
    _, kernels, unlearn, retain = case
    for name, kernel in kernels.items():
        a, b = start(kernel, unlearn[name], retain[name], 3, LOW_RANK.scale)
        for layer in range(CONFIG.num_layers):
            weights, forget, keep = (
                np.asarray(x[layer], np.float64).T
                for x in (kernel, unlearn[name], retain[name])
            )
            wanted = numpys(weights, forget, keep, 3, 2.0)
            np.testing.assert_allclose(
                (a[layer] @ b[layer]).T, wanted, rtol=2e-3, atol=2e-4, err_msg=name
            )


def test_a_whole_rank_holds_the_whole_matrix(case):
    _, kernels, unlearn, retain = case
    a, b = start(kernels["up"], unlearn["up"], retain["up"], 16, 2.0)
    np.testing.assert_allclose(2.0 * (a @ b), kernels["up"], atol=1e-3)


def test_deltas_begin_with_nothing_and_end_as_the_change_of_the_product(case):
    base, kernels, unlearn, retain = case
    factors = begun_factors(kernels, unlearn, retain, CONFIG, LOW_RANK)
    tokens = jnp.asarray([[3, 1, 4, 1, 5, 9]])
    plain = forward(base, CONFIG, tokens)
    begun = forward(lora.attach(base, factors, LOW_RANK), CONFIG, tokens)
    np.testing.assert_allclose(begun, plain, atol=2e-5)
    moved = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "start" in path[-1].key else 1.1 * x, factors
    )
    merged = lora.merge(jax.tree.map(jnp.copy, base), moved, LOW_RANK)
    # One model, of the base's own tensors.
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    beside = lora.attach(base, moved, LOW_RANK)
    seen = [forward(p, CONFIG, tokens) for p in (beside, merged)]
    np.testing.assert_allclose(*seen, rtol=1e-4, atol=2e-5)
    up = factors["layers"]["mlp"]["up"]
    change = 2.0 * (1.21 - 1) * (up["start_a"] @ up["start_b"])
    found = merged["layers"]["mlp"]["up"]["kernel"] - kernels["up"]
    np.testing.assert_allclose(found, change, atol=1e-4)
    for a, b in lora.pairs(factors, LOW_RANK).values():
        np.testing.assert_allclose(a @ b, 0, atol=1e-5)


def test_what_deltas_began_with_never_moves(case):
    base, kernels, unlearn, retain = case
    factors = begun_factors(kernels, unlearn, retain, CONFIG, LOW_RANK)
    tokens = jnp.asarray([[3, 1, 4]])

    def total(factors):
        params = lora.attach(base, factors, LOW_RANK)
        return (forward(params, CONFIG, tokens) ** 3).sum()

    grads, decays = jax.jit(jax.grad(total))(factors), _decays(factors)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        began = path[-1].key.startswith("start")
        assert bool(jnp.any(grad != 0)) != began
    for path, decay in jax.tree_util.tree_leaves_with_path(decays):
        assert decay != path[-1].key.startswith("start")
