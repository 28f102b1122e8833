# SPDX-License-Identifier: Apache-2.0
"""Removing and learning undo each other; low ranks are the best of their rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subspace_model as cases
from plain_settings import plain_optimizer
from subspace_model import COMPUTE, CONFIG, EVERY, UPPER

from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.subspace import changes
from jax_surgery.methods.subspace.adapters import Pull
from jax_surgery.optim import lora
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train.step import init_state, make_train_step


def numpy_of(matrices):
    return {name: np.asarray(m, np.float64) for name, m in matrices.items()}


@pytest.mark.parametrize("trainable", [EVERY, UPPER])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_task_is_added_or_taken_off(sign, trainable):
    params, task = cases.params_of(), cases.random_matrices(0, trainable)
    after = changes.added(params, task, sign * 0.3, trainable)
    was = numpy_of(trainable.take(params))
    for name, matrix in numpy_of(trainable.take(after)).items():
        wanted = was[name] + sign * 0.3 * np.asarray(task[name], np.float64)
        np.testing.assert_allclose(matrix, wanted, rtol=1e-6, atol=1e-6)
    change = jax.tree.map(jnp.subtract, after, params)
    assert cases.norm(change) > 1
    assert cases.norm(cases.outside(change, trainable)) == 0


def test_learning_undoes_removing():
    params, task = cases.params_of(), cases.random_matrices(0, UPPER)
    without = changes.added(params, task, -0.25, UPPER)
    again = changes.added(without, task, 0.25, UPPER)
    for one, other, change in zip(
        *map(jax.tree.leaves, (params, again, UPPER.put(task, params))), strict=True
    ):
        # Each of both sums is rounded once.
        size = 2**-24 * (2 * jnp.abs(one) + 0.25 * jnp.abs(change))
        assert np.all(np.abs(one - other) <= 2 * size)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_parameters_keep_their_dtype_and_are_rounded_once():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), cases.params_of())
    task = cases.random_matrices(0, UPPER)
    after = changes.added(params, task, 1.0, UPPER)
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}
    base = {n: m.astype(jnp.float32) for n, m in UPPER.take(params).items()}
    change = changes.change_of(after, base, UPPER)
    for name, matrix in UPPER.take(after).items():
        wanted = base[name] + task[name]
        np.testing.assert_array_equal(matrix, wanted.astype(jnp.bfloat16))
        assert change[name].dtype == jnp.float32
        np.testing.assert_allclose(change[name], task[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_cut_change_has_its_rank_and_is_the_best_of_it(rank):
    params, change = cases.params_of(), cases.random_matrices(0, UPPER)
    base = UPPER.take(params)
    after = changes.added(params, change, 1.0, UPPER)
    cut = changes.truncated(after, base, rank, UPPER)
    found = numpy_of(changes.change_of(cut, base, UPPER))
    for name, matrix in found.items():
        np.testing.assert_array_equal(np.linalg.matrix_rank(matrix, tol=1e-4), rank)
        whole = np.asarray(change[name], np.float64)
        tail = np.linalg.svd(whole, compute_uv=False)[:, rank:]
        error = np.linalg.norm(whole - matrix, axis=(1, 2))
        # Eckart and Young: no matrix of this rank is nearer.
        np.testing.assert_allclose(error, np.linalg.norm(tail, axis=1), rtol=1e-4)
    change = jax.tree.map(jnp.subtract, cut, params)
    assert cases.norm(cases.outside(change)) == 0
    again = changes.truncated(cut, base, rank, UPPER)
    for name, matrix in UPPER.take(again).items():
        np.testing.assert_allclose(matrix, UPPER.take(cut)[name], atol=1e-5)


@pytest.mark.parametrize("rank", [0, 2, 5, 100])
def test_factors_multiply_to_the_best_of_their_rank(rank):
    change = cases.random_matrices(0)
    for name, (a, b) in changes.factors(change, rank).items():
        whole = np.asarray(change[name], np.float64)
        layers, inputs, outputs = whole.shape
        kept = min(rank or min(inputs, outputs), inputs, outputs)
        assert a.shape == (layers, inputs, kept) and b.shape == (layers, kept, outputs)
        u, s, vt = np.linalg.svd(whole, full_matrices=False)
        best = (u[..., :kept] * s[:, None, :kept]) @ vt[:, :kept]
        product = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
        np.testing.assert_allclose(product, best, atol=3e-4)
        if rank in (0, 100):
            np.testing.assert_allclose(product, whole, atol=2e-5)


def test_an_adapters_frozen_layers_do_not_decay():
    """`UPPER` leaves the first layer out; the optimizer here moves all it is given."""
    chosen = lora.LowRank(2, matrices=",".join(UPPER.matrices))
    optimizer = make_optimizer(plain_optimizer(learning_rate=0.1, weight_decay=0.5), 5)
    factors = lora.init_factors(CONFIG, chosen, 0)
    before = jax.device_get(factors)
    step = make_train_step(
        CONFIG,
        Pull(cases.MARGIN),
        RoleRows(2, 0, 0),
        optimizer,
        compute=COMPUTE,
        trainable=UPPER,
        low_rank=chosen,
    )
    batch = cases.pushed(cases.batch_of(5), 1.0, -cases.FAR)
    state = init_state(factors, optimizer)
    after, _ = step(state, batch, cases.params_of())
    for was, now in zip(*map(jax.tree.leaves, (before, after.params)), strict=True):
        np.testing.assert_array_equal(now[0], was[0])
        assert np.any(now[1:] != was[1:])
