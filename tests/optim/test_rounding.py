# SPDX-License-Identifier: Apache-2.0
"""Rounding to bfloat16 at random: right on average, so moments follow float32's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from plain_settings import plain_optimizer

from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.optim.rounding import round_stochastically

OPTIMISED = True  # see conftest

BOTH = {"moment_dtype": "bfloat16", "second_moment_dtype": "bfloat16"}


def choice_of(name, **fields):
    return plain_optimizer(name, 0.02, **fields)


def test_rounding_gives_a_neighbour_and_is_right_on_average():
    x = jnp.asarray([1.0, 1.001, -3.3, 1e-20, 7.77e30, 0.0], jnp.float32)
    draws = 20_000
    many = jnp.tile(x, (draws, 1))
    got = np.asarray(round_stochastically(many, jax.random.key(3)), np.float64)
    exact = np.asarray(x, np.float64)
    spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1e-38))) - 7)
    assert np.all(np.abs(got - exact) < spacing)
    assert np.all(got[:, 0] == 1.0) and np.all(got[:, 5] == 0.0)
    assert all(len(np.unique(got[:, i])) == 2 for i in (1, 2, 3, 4))
    # Five standard errors of a mean of two values `spacing` apart.
    error = np.abs(got.mean(0) - exact)
    assert np.all(error <= 5 * 0.5 * spacing / math.sqrt(draws))


def test_rounding_to_float16_gives_a_neighbour_and_is_right_on_average():
    """Also where its numbers are equally far apart, below 6e-5."""
    x = np.float32([1.0, 1.0001, -3.3001, 1e-5, -2e-8, 0.0, 6e4, 65472, np.inf, 1e9])
    draws = 20_000
    many = jnp.tile(x, (draws, 1))
    got = round_stochastically(many, jax.random.key(3), jnp.float16)
    assert got.dtype == jnp.float16
    got = np.asarray(got, np.float64)
    few = x[:8].astype(np.float64)
    near = np.abs(x[:8].astype(np.float16))
    spacing = np.spacing(near).astype(np.float64)
    assert np.all(np.abs(got[:, :8] - few) < spacing)
    assert [len(np.unique(got[:, i])) for i in range(8)] == [1, 2, 2, 2, 2, 1, 1, 1]
    error = np.abs(got[:, :8].mean(0) - few)
    assert np.all(error <= 5 * 0.5 * spacing / math.sqrt(draws))
    assert np.all(np.isinf(got[:, 8:]))  # too large, which `hf_layout.convert` says


def test_rounding_leaves_infinities_and_nans():
    nan = np.asarray([0x7FFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    x = jnp.asarray([np.inf, -np.inf, *nan], jnp.float32)
    for seed in range(20):
        got = np.asarray(round_stochastically(x, jax.random.key(seed)), np.float32)
        np.testing.assert_array_equal(got[:2], [np.inf, -np.inf])
        assert np.all(np.isnan(got[2:]))


def relative(got, wanted):
    """Root mean square of the difference over that of what is wanted."""
    return np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))


def test_moments_in_bfloat16_follow_those_in_float32():
    """Over many steps, first falling gradients, then rising ones."""
    width, number, decay = 512, 1500, 0.998
    params = {"head": {"kernel": jnp.zeros((1, width))}}
    fields = {"b1": decay, "schedule": "constant", "clip": 0.0, "b2": decay}
    choices = [choice_of("adamw", **fields), choice_of("adamw", **fields, **BOTH)]
    optimizers = [make_optimizer(choice, number) for choice in choices]

    def moments(state):
        adam = state[1][0]
        adam = getattr(adam, "inner", adam)
        return [getattr(adam, f)["head"]["kernel"] for f in ("mu", "nu")]

    sizes = np.where(np.arange(number) < number // 2, 0.3, 1.0)
    noise = np.random.default_rng(0).normal(size=(number, 1, width))
    gradients = jnp.asarray(sizes[:, None, None] * (0.5 + noise), jnp.float32)

    def one(carry, kernel):
        states, plain = carry
        gradient = {"head": {"kernel": kernel}}
        stepped = [
            optimizer.update(gradient, state, params)
            for optimizer, state in zip(optimizers, states, strict=True)
        ]
        plain = decay * plain.astype(jnp.float32) + (1 - decay) * jnp.square(kernel)
        plain = plain.astype("bfloat16")
        states = [state for _, state in stepped]
        updates = [updates["head"]["kernel"] for updates, _ in stepped]
        return (states, plain), (*map(moments, states), plain, updates)

    # Begin at a second moment far above what the gradients have.
    states = [optimizer.init(params) for optimizer in optimizers]
    states = [
        jax.tree.map(lambda x: jnp.ones_like(x) if x.ndim else x, state)
        for state in states
    ]
    plain = jnp.ones((1, width), jnp.bfloat16)
    _, (exact, rounded, plain, updates) = jax.jit(
        lambda carry: jax.lax.scan(one, carry, gradients)
    )((states, plain))
    assert rounded[1].dtype == jnp.bfloat16
    for time in (number // 2 - 1, number - 1):
        for full, short in zip(exact, rounded, strict=True):
            full, short = (np.asarray(x[time, 0], np.float64) for x in (full, short))
            # No bias: the means over elements agree far better than elements do.
            assert abs(short.mean() / full.mean() - 1) < 0.01
            assert 1e-4 < relative(short, full) < 0.1
        full, short = (np.asarray(u[time, 0], np.float64) for u in updates)
        assert relative(short, full) < 0.1
    # Rounded to the nearest value the second moment stalls where it began: this test
    # would find it.
    last = np.asarray(plain[number // 2 - 1], np.float64).mean()
    assert last > 1.5 * np.asarray(exact[1][number // 2 - 1], np.float64).mean()
