# SPDX-License-Identifier: Apache-2.0
"""Preconditioned steps: against explicit inverses, and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_surgery.model import llama
from jax_surgery.model.config import LlamaConfig
from jax_surgery.surgery import precondition
from jax_surgery.surgery.moments import second_moments, zero_moments
from jax_surgery.surgery.optimizer import (
    OptimizerChoice,
    make_optimizer,
    make_schedule,
)

CONFIG = LlamaConfig(43, 16, 24, 2, 4, 2, 4, initializer_range=0.3)


@pytest.fixture(scope="module")
def params():
    return llama.init_params(CONFIG, 0)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        lengths = rng.integers(5, 12, 2)
        yield {
            "tokens_BT": rng.integers(0, 43, (2, 12)),
            "segment_ids_BT": (np.arange(12) < lengths[:, None]).astype(np.int32),
            "positions_BT": np.tile(np.arange(12), (2, 1)),
        }


@pytest.fixture(scope="module")
def moments(params):
    return second_moments(params, CONFIG, batches(6), llama.Compute())


def test_moments_add_up_and_leave_padding_out(params, moments):
    single = [
        second_moments(params, CONFIG, [batch], llama.Compute()) for batch in batches(6)
    ]
    for key, total in moments.items():
        assert total.shape == zero_moments(CONFIG)[key].shape
        np.testing.assert_allclose(
            total, sum(m[key] for m in single), rtol=1e-4, atol=1e-4
        )
    # A normed input has squared norm D times its scale's square: count the tokens.
    tokens = sum(int(b["segment_ids_BT"].sum()) for b in batches(6))
    trace = jnp.trace(moments["attention_in"], axis1=1, axis2=2)
    np.testing.assert_allclose(trace, tokens * CONFIG.hidden_size, rtol=1e-3)


def random_like(params, seed):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    normal = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, normal)


def test_preconditioning_equals_an_explicit_inverse(params, moments):
    gradients, ridge = random_like(params, 1), 1e-2
    inverses = precondition.invert(moments, ridge)
    got = precondition.precondition(gradients, inverses)
    for (block, name), kind in precondition.INPUT_OF.items():
        for layer in range(CONFIG.num_layers):
            A = np.asarray(moments[kind][layer], np.float64)
            width = len(A)
            P = np.linalg.inv(A / (np.trace(A) / width) + ridge * np.eye(width))
            G = gradients["layers"][block][name]["kernel"][layer]
            wanted = P @ np.asarray(G, np.float64).reshape(width, -1)
            np.testing.assert_allclose(
                got["layers"][block][name]["kernel"][layer].reshape(width, -1),
                wanted,
                rtol=2e-2,
                atol=2e-2 * np.abs(wanted).max(),
            )
    assert not jnp.any(got["embedder"]["embedding"])
    assert not jnp.any(got["final_norm"]["scale"])


def test_the_scale_of_the_moments_does_not_matter(params, moments):
    gradients = random_like(params, 2)
    a = precondition.precondition(gradients, precondition.invert(moments, 1e-2))
    scaled = jax.tree.map(lambda m: 37.0 * m, moments)
    b = precondition.precondition(gradients, precondition.invert(scaled, 1e-2))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-2, atol=1e-3)


def test_identity_inverses_change_nothing(params):
    gradients = random_like(params, 3)
    got = precondition.precondition(gradients, precondition.identity_inverses(params))
    for block, name in precondition.INPUT_OF:
        np.testing.assert_allclose(
            got["layers"][block][name]["kernel"],
            gradients["layers"][block][name]["kernel"],
            rtol=1e-5,
        )


def test_the_steps_size_is_the_schedules(params, moments):
    optimizer = make_optimizer(
        OptimizerChoice("preconditioned", 0.1, schedule="constant"), 10
    )
    state = optimizer.init(params)
    state = state._replace(inverses=precondition.invert(moments, 1e-3))
    updates, after = optimizer.update(random_like(params, 4), state, params)
    norm = optax.tree.norm(updates)
    np.testing.assert_allclose(norm, 0.1 * state.weight_norm, rtol=1e-4)
    assert int(after.count) == 1


@pytest.mark.parametrize("kind", sorted(set(precondition.INPUT_OF.values())))
def test_no_direction_changes_kept_text_less_for_the_same_progress(
    params, moments, kind
):
    """Of all directions D, G' has the least tr(D^T (A / tau + ridge) D) / <G, D>^2."""
    ridge, rng = 1e-2, np.random.default_rng(5)
    inverses = precondition.invert(moments, ridge)
    gradients = random_like(params, 6)
    ours = precondition.precondition(gradients, inverses)
    (block, name) = next(k for k, v in precondition.INPUT_OF.items() if v == kind)
    A = np.asarray(moments[kind][0], np.float64)
    kept = A / np.trace(A) * len(A) + ridge * np.eye(len(A))

    def matrix(tree):
        return np.asarray(tree["layers"][block][name]["kernel"][0], np.float64).reshape(
            len(A), -1
        )

    def price(D):
        return np.einsum("io,ij,jo->", D, kept, D) / np.sum(matrix(gradients) * D) ** 2

    best = price(matrix(ours))
    assert best < 0.7 * price(matrix(gradients))
    for size in (1e-2, 1e-1, 1.0):
        noise = rng.standard_normal(matrix(ours).shape)
        noise *= size * np.linalg.norm(matrix(ours)) / np.linalg.norm(noise)
        assert best <= price(matrix(ours) + noise)


def test_a_zero_gradient_makes_no_step(params):
    optimizer = make_optimizer(OptimizerChoice("preconditioned", 0.1), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert all(not np.any(np.asarray(u)) for u in jax.tree.leaves(updates))


def test_schedules_begin_and_end_where_they_should():
    choice = OptimizerChoice(learning_rate=2.0, warmup=4, final=0.1)
    schedule = make_schedule(choice, 20)
    assert float(schedule(0)) == 0.0
    assert float(schedule(4)) == pytest.approx(2.0)
    assert float(schedule(20)) == pytest.approx(0.2)
    linear = make_schedule(OptimizerChoice(learning_rate=2.0, schedule="linear"), 10)
    assert float(linear(5)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "adam"}, "adamw, preconditioned"),
        ({"schedule": "cos"}, "cosine, linear, constant"),
        ({"learning_rate": 0.0}, "must be positive"),
    ],
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerChoice(**fields)


def test_a_warmup_longer_than_the_run_is_named():
    with pytest.raises(ValueError, match=r"5 steps with optimizer\.warmup=9"):
        make_schedule(OptimizerChoice(warmup=9), 5)
