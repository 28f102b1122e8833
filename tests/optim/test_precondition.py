# SPDX-License-Identifier: Apache-2.0
"""Preconditioned directions: against float64, and what they promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_settings import OPTIMIZER, plain_compute, plain_optimizer, read

from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import BLOCK_OF, Trainable
from jax_surgery.optim.newton_schulz import orthogonalise
from jax_surgery.optim.optimizer import (
    make_optimizer,
    make_schedule,
)
from jax_surgery.optim.precondition import directions
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.optim.precondition.moments import (
    second_moments,
    zero_moments,
)

CONFIG = ModelConfig(43, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
EVERY = Trainable(0, tuple(BLOCK_OF))
UPPER = Trainable(1, ("o", "up", "down"))


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        lengths = rng.integers(5, 12, 2)
        yield Batch(
            tokens_BT=rng.integers(0, 43, (2, 12)),
            segment_ids_BT=(np.arange(12) < lengths[:, None]).astype(np.int32),
            positions_BT=np.tile(np.arange(12), (2, 1)),
        )


def moments_of(params, trainable, number=6):
    return second_moments(params, CONFIG, batches(number), plain_compute(), trainable)


@pytest.fixture(scope="module")
def moments(params):
    return moments_of(params, EVERY)


def test_moments_add_up_and_leave_padding_out(params, moments):
    single = [
        second_moments(params, CONFIG, [batch], plain_compute(), EVERY)
        for batch in batches(6)
    ]
    for key, total in moments.items():
        assert total.shape == zero_moments(CONFIG, EVERY)[key].shape
        np.testing.assert_allclose(
            total, sum(m[key] for m in single), rtol=1e-4, atol=1e-4
        )
    # A normed input has squared norm D times its scale's square: count the tokens.
    tokens = sum(int(b.segment_ids_BT.sum()) for b in batches(6))
    trace = jnp.trace(moments["attention_in"], axis1=1, axis2=2)
    np.testing.assert_allclose(trace, tokens * CONFIG.hidden_size, rtol=1e-3)


def test_moments_of_some_matrices_are_those_of_all(params, moments):
    upper = moments_of(params, UPPER)
    assert set(upper) == {"attention_out", "mlp_in", "mlp_hidden"}
    for kind, moment in upper.items():
        np.testing.assert_allclose(moment, moments[kind][1:], rtol=1e-4, atol=1e-4)


def random_like(params, seed):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    normal = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, normal)


def kept_metric(moments, name, layer, ridge):
    """A / tau + ridge I in float64."""
    A = np.asarray(moments[MATRICES[name].statistic][layer], np.float64)
    return A / np.trace(A) * len(A) + ridge * np.eye(len(A))


@pytest.mark.parametrize("name", sorted(BLOCK_OF))
def test_natural_is_the_inverse_times_the_gradient(params, moments, name):
    ridge, gradient = 1e-2, EVERY.take(random_like(params, 1))
    got = directions.natural(gradient, ridges.factorise(moments, ridge))
    for layer in range(CONFIG.num_layers):
        metric = kept_metric(moments, name, layer, ridge)
        wanted = np.linalg.inv(metric) @ np.asarray(gradient[name][layer], np.float64)
        np.testing.assert_allclose(
            got[name][layer], wanted, rtol=2e-2, atol=2e-3 * np.abs(wanted).max()
        )


@pytest.mark.parametrize("name", sorted(BLOCK_OF))
def test_orthogonal_moves_every_whitened_direction_alike(params, moments, name):
    ridge, gradient = 1e-2, EVERY.take(random_like(params, 1))
    factors = ridges.factorise(moments, ridge)
    got = directions.orthogonal(gradient, factors)
    for layer in range(CONFIG.num_layers):
        values, vectors = np.linalg.eigh(kept_metric(moments, name, layer, ridge))
        whiten = (vectors * np.sqrt(values)) @ vectors.T
        U, s, Vt = np.linalg.svd(
            np.linalg.inv(whiten) @ np.asarray(gradient[name][layer]),
            full_matrices=False,
        )
        moved = np.diag(U.T @ whiten @ np.asarray(got[name][layer]) @ Vt.T)
        visible = s > 0.03 * np.linalg.norm(s)
        assert visible.sum() >= 0.75 * len(s)
        assert np.all((moved[visible] > 0.6) & (moved[visible] < 1.3))


@pytest.mark.parametrize("shape", [(2, 6, 20), (2, 20, 6), (1, 9, 9)])
def test_orthogonalise_keeps_the_singular_vectors(shape):
    X = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    got = orthogonalise(jnp.asarray(X))
    for matrix, result in zip(X, np.asarray(got), strict=True):
        U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
        inner = U.T @ result @ Vt.T
        np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)
        large = np.diag(inner)[s > 0.05 * s.max()]
        assert np.all((large > 0.6) & (large < 1.3))
    assert not np.any(orthogonalise(jnp.zeros((1, 4, 3))))


def test_the_scale_of_the_moments_does_not_matter(params, moments):
    gradients = EVERY.take(random_like(params, 2))
    a = directions.natural(gradients, ridges.factorise(moments, 1e-2))
    scaled = jax.tree.map(lambda m: 37.0 * m, moments)
    b = directions.natural(gradients, ridges.factorise(scaled, 1e-2))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-2, atol=1e-3)


def test_identity_factors_change_nothing(params):
    gradients = EVERY.take(random_like(params, 3))
    got = directions.natural(gradients, ridges.identity(gradients))
    for name, gradient in gradients.items():
        np.testing.assert_allclose(got[name], gradient, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(directions.DIRECTIONS))
@pytest.mark.parametrize("trainable", [EVERY, UPPER], ids=["every", "upper"])
def test_the_steps_size_is_the_schedules(params, name, trainable):
    choice = plain_optimizer(name, 0.1, schedule="constant")
    optimizer = make_optimizer(choice, 10, trainable)
    state = optimizer.init(params)
    moments = moments_of(params, trainable, 2)
    factors = ridges.factorise(moments, 1e-3)
    state = state._replace(factors=factors._replace(outputs=state.factors.outputs))
    updates, after = optimizer.update(random_like(params, 4), state, params)
    norm = optax.tree.norm(updates)
    weights = optax.tree.norm(trainable.take(params))
    np.testing.assert_allclose(norm, 0.1 * weights, rtol=1e-4)
    np.testing.assert_allclose(
        optax.tree.norm(trainable.take(updates)), norm, rtol=1e-5
    )
    assert int(after.count) == 1


@pytest.mark.parametrize("name", sorted(directions.DIRECTIONS))
def test_steps_have_their_length_in_the_metric_of_the_factors(params, name):
    choice = plain_optimizer(name, 0.1, schedule="constant")
    optimizer = make_optimizer(choice, 10, UPPER, own_metric=True)
    state = optimizer.init(params)
    moments = ridges.factorise(moments_of(params, UPPER, 2), 1e-3)
    state = state._replace(factors=moments._replace(outputs=state.factors.outputs))
    for scale in (1.0, 10.0):
        gradients = jax.tree.map(
            functools.partial(jnp.multiply, scale), random_like(params, 4)
        )
        step = UPPER.take(optimizer.update(gradients, state, params)[0])
        moving = UPPER.take(gradients)
        along = directions.DIRECTIONS[name](moving, state.factors)
        # <D, G> = |D|^2 where D = C^-1 G and |D|^2 = <D, C D>; a direction of signs is as
        # long whatever the gradient is.
        inner = sum(float((along[k] * moving[k]).sum()) for k in moving)
        length = 1.0 if name in directions.OF_SIGNS else inner**0.5
        for key, wanted in along.items():
            np.testing.assert_allclose(
                step[key], -0.1 * wanted / length, rtol=1e-3, atol=1e-6
            )


@pytest.mark.parametrize("name", ["q", "o", "up", "down"])
def test_no_direction_changes_kept_text_less_for_the_same_progress(
    params, moments, name
):
    """Of all directions D, S S G has the least tr(D^T (A / tau + ridge) D) / <G, D>^2."""
    ridge, rng = 1e-2, np.random.default_rng(5)
    gradient = EVERY.take(random_like(params, 6))
    factors = ridges.factorise(moments, ridge)
    ours = np.asarray(directions.natural(gradient, factors)[name][0], np.float64)
    plain = np.asarray(gradient[name][0], np.float64)
    kept = kept_metric(moments, name, 0, ridge)

    def price(D):
        return np.einsum("io,ij,jo->", D, kept, D) / np.sum(plain * D) ** 2

    assert price(ours) < 0.7 * price(plain)
    for size in (1e-2, 1e-1, 1.0):
        noise = rng.standard_normal(ours.shape)
        noise *= size * np.linalg.norm(ours) / np.linalg.norm(noise)
        assert price(ours) <= price(ours + noise)


def test_momentum_sums_gradients(params):
    choice = plain_optimizer("natural", 0.1, schedule="constant", momentum=0.5)
    optimizer = make_optimizer(choice, 10, EVERY)
    first, second = random_like(params, 7), random_like(params, 8)
    state = optimizer.update(first, optimizer.init(params), params)[1]
    updates = EVERY.take(optimizer.update(second, state, params)[0])
    old, new = EVERY.take(first), EVERY.take(second)
    summed = jax.tree.map(lambda a, b: 0.5 * a + b, old, new)
    scale = -0.1 * optax.tree.norm(EVERY.take(params)) / optax.tree.norm(summed)
    for name, update in updates.items():
        np.testing.assert_allclose(update, scale * summed[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(directions.DIRECTIONS))
def test_a_zero_gradient_makes_no_step(params, name):
    optimizer = make_optimizer(plain_optimizer(name, 0.1), 10, EVERY)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert all(not np.any(np.asarray(u)) for u in jax.tree.leaves(updates))


def test_schedules_begin_and_end_where_they_should():
    choice = plain_optimizer(learning_rate=2.0, warmup=4, final=0.1)
    schedule = make_schedule(choice, 20)
    assert float(schedule(0)) == 0.0
    assert float(schedule(4)) == pytest.approx(2.0)
    assert float(schedule(20)) == pytest.approx(0.2)
    linear = make_schedule(plain_optimizer(learning_rate=2.0, schedule="linear"), 10)
    assert float(linear(5)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "adam"}, "adamw, adafactor, sgd, muon, natural, orthogonal, kfac"),
        ({"schedule": "cos"}, "cosine, linear, constant"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"momentum": 1.0}, "0 .none. to below 1"),
    ],
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        read(OPTIMIZER, "config.optimizer", **fields)


def test_a_warmup_longer_than_the_run_is_named():
    with pytest.raises(ValueError, match=r"5 steps with config.optimizer.warmup=9"):
        make_schedule(plain_optimizer(warmup=9), 5)


def weighted(weights):
    """Batches whose tokens weigh what a function of a batch's tokens says."""
    return [
        batch.replace(
            moment_weights_BT=np.asarray(weights(batch.tokens_BT), np.float32)
        )
        for batch in batches(3)
    ]


def test_moments_weigh_tokens(params):
    """They are linear in the weights, which are of tokens of all roles at once."""

    def found(weights):
        return second_moments(params, CONFIG, weighted(weights), plain_compute(), UPPER)

    first, second = found(lambda t: t < 20), found(lambda t: t >= 20)
    both = found(lambda t: np.where(t < 20, 3.0, 0.25))
    for kind, moment in moments_of(params, UPPER, 3).items():
        scale = float(jnp.abs(moment).max())
        for one, other in (
            (both[kind], 3.0 * first[kind] + 0.25 * second[kind]),
            (moment, first[kind] + second[kind]),
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)
        assert float(jnp.abs(first[kind] - second[kind]).max()) > 0.01 * scale


def test_moments_are_numpys_sums_of_the_first_layers_inputs(params):
    """Those are normed embeddings; padding weighs nothing whatever is said of it."""
    query = Trainable(0, ("q",))
    batches_given = weighted(lambda t: 0.1 + t / 7)
    found = second_moments(params, CONFIG, batches_given, plain_compute(), query)
    table = np.asarray(params["embedder"]["embedding"], np.float64)
    wanted = np.zeros((16, 16))
    for batch in batches_given:
        real = batch.segment_ids_BT > 0
        x = table[batch.tokens_BT[real]]
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.rms_norm_eps)
        wanted += np.einsum("t,tx,ty->xy", batch.moment_weights_BT[real], x, x)
    np.testing.assert_allclose(found["attention_in"][0], wanted, rtol=1e-4, atol=1e-3)
