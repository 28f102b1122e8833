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


def kept_change(direction, moments):
    """Mean square change of all matrices' outputs on the kept text."""
    total = 0.0
    for (block, name), kind in precondition.INPUT_OF.items():
        for layer in range(CONFIG.num_layers):
            G = direction["layers"][block][name]["kernel"][layer]
            width = moments[kind].shape[-1]
            G = np.asarray(G).reshape(width, -1)
            total += np.einsum("io,ij,jo->", G, moments[kind][layer], G)
    return total


def test_a_step_changes_kept_text_less_than_a_plain_one_of_its_size(params, moments):
    optimizer = make_optimizer(
        OptimizerChoice("preconditioned", 0.1, schedule="constant"), 10
    )
    gradients = random_like(params, 4)
    state = optimizer.init(params)
    plain, _ = optimizer.update(gradients, state, params)
    kept = state._replace(inverses=precondition.invert(moments, 1e-3))
    ours, after = optimizer.update(gradients, kept, params)
    np.testing.assert_allclose(optax.tree.norm(plain), optax.tree.norm(ours), rtol=1e-4)
    np.testing.assert_allclose(
        optax.tree.norm(ours), 0.1 * state.weight_norm, rtol=1e-4
    )
    assert kept_change(ours, moments) < 0.05 * kept_change(plain, moments)
    assert int(after.count) == 1


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
