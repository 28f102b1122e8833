# SPDX-License-Identifier: Apache-2.0
"""Moments of outputs' gradients: against the Fisher information, and as they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from plain_settings import plain_compute

from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import BLOCK_OF, Trainable
from jax_surgery.optim.precondition import directions, output_moments
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.optim.precondition.moments import second_moments

CONFIG = ModelConfig(11, 8, 12, 2, 2, 1, 4, initializer_range=0.5)
UPPER = Trainable(1, ("q", "gate", "down"))


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


def a_batch(seed=0, rows=2, tokens=6):
    rng = np.random.default_rng(seed)
    weights = np.ones((rows, tokens), np.float32)
    weights[:, :3] = 0  # the first positions predict what is not learned
    return Batch(
        tokens_BT=rng.integers(0, 11, (rows, tokens)),
        segment_ids_BT=np.ones((rows, tokens), np.int32),
        positions_BT=np.tile(np.arange(tokens), (rows, 1)),
        weights_BT=weights,
    )


def moments_of(params, batches, trainable=UPPER, seed=0):
    how = (plain_compute(), trainable)
    return output_moments.second_moments(params, CONFIG, batches, *how, seed)


def test_the_layout_is_that_of_the_moving_matrices(params):
    found = moments_of(params, [a_batch()])
    assert {k: m.shape for k, m in found.items()} == {
        "q": (1, 8, 8),
        "gate": (1, 12, 12),
        "down": (1, 8, 8),
    }
    for moment in found.values():
        np.testing.assert_allclose(moment, moment.swapaxes(1, 2), atol=1e-6)


def test_draws_average_to_the_fisher_information_of_an_output(params):
    """Of the last layer's `down`, whose output at a position nothing but that position's
    prediction depends on: S = sum of J^T (diag p - p p^T) J over learned positions."""
    batch = a_batch()
    hidden_BTD = decoder.forward_packed(params, CONFIG, batch)

    def logits_of(added_BTD):
        """Logits where something is added to the last layer's output."""
        raw = decoder.forward_packed(params, CONFIG, batch, num_layers=2) + added_BTD
        normed = decoder.final_norm(params, raw, CONFIG)
        return normed @ output_head.kernel(params)

    np.testing.assert_allclose(
        logits_of(jnp.zeros_like(hidden_BTD)),
        hidden_BTD @ output_head.kernel(params),
        rtol=1e-4,
        atol=1e-5,
    )
    wanted = np.zeros((8, 8))
    for row in range(2):
        for place in range(2, 5):  # the positions before the learned ones
            at = lambda added_D, row=row, place=place: logits_of(
                jnp.zeros_like(hidden_BTD).at[row, place].set(added_D)
            )[row, place]
            jacobian_VD = np.asarray(jax.jacobian(at)(jnp.zeros(8)), np.float64)
            p_V = np.asarray(jax.nn.softmax(at(jnp.zeros(8))), np.float64)
            wanted += jacobian_VD.T @ (np.diag(p_V) - np.outer(p_V, p_V)) @ jacobian_VD
    draws = 1500
    found = moments_of(params, [batch] * draws)["down"][0] / draws
    # Within three standard errors: a draw's moment varies about as much as it is large.
    error = 3 * np.abs(wanted).max() / np.sqrt(draws)
    np.testing.assert_allclose(found, wanted, atol=error)
    assert np.abs(wanted).max() > 10 * error


def test_another_seed_draws_other_tokens(params):
    found = [moments_of(params, [a_batch()], seed=seed)["q"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_what_a_forward_pass_says_does_not_depend_on_a_moment(params):
    layers = jax.tree.map(lambda leaf: leaf, params["layers"])
    for name in ("q", "down"):
        width = MATRICES[name].matrix_shape(CONFIG)[1]
        moment = jnp.full((2, width, width), 7.0)
        layers[BLOCK_OF[name]][name][decoder.MOMENT] = moment
    with_moments = decoder.forward_packed(
        params | {"layers": layers}, CONFIG, a_batch()
    )
    plain = decoder.forward_packed(params, CONFIG, a_batch())
    np.testing.assert_array_equal(with_moments, plain)


def test_kfac_is_both_inverses_times_the_gradient(params):
    """Against float64, with the scale of each layer beside the others'."""
    batches = [a_batch(seed) for seed in range(8)]
    inputs = second_moments(
        params, CONFIG, batches, plain_compute(), Trainable(0, ("gate", "down"))
    )
    moving = Trainable(0, ("gate", "down"))
    outputs = moments_of(params, batches, moving)
    factors = ridges.factorise(inputs, 1e-2)
    factors = factors._replace(outputs=ridges.of_outputs(outputs, inputs, 0.1))
    rng = np.random.default_rng(0)
    gradients = {
        name: jnp.asarray(
            rng.standard_normal((2, *MATRICES[name].matrix_shape(CONFIG))), jnp.float32
        )
        for name in moving.matrices
    }
    got = directions.kfac(gradients, factors)
    wanted, norm = {}, lambda m: np.trace(m) / len(m)
    for name, gradient in gradients.items():
        for layer in range(2):
            A = np.asarray(inputs[MATRICES[name].statistic][layer], np.float64)
            S = np.asarray(outputs[name][layer], np.float64)
            left = A + 1e-2 * norm(A) * np.eye(len(A))
            right = S + 0.1 * norm(S) * np.eye(len(S))
            G = np.asarray(gradient[layer], np.float64)
            wanted[name, layer] = np.linalg.solve(left, G) @ np.linalg.inv(right)
    scale = np.abs(got["gate"][0]).max() / np.abs(wanted["gate", 0]).max()
    for (name, layer), whole in wanted.items():
        size = scale * np.abs(whole).max()
        np.testing.assert_allclose(got[name][layer], scale * whole, atol=5e-3 * size)


def test_log_p_of_a_drawn_token_is_of_the_model(params):
    """The sum that is differentiated is of log p of one token at each learned position."""
    batch = a_batch()
    hidden_BTD = decoder.forward_packed(params, CONFIG, batch)
    head = output_head.of(params, CONFIG)
    hidden_CD = hidden_BTD.reshape(-1, 8)
    numbers, seeds = jnp.arange(12, dtype=jnp.uint32), jnp.zeros(12, jnp.uint32)
    one = lambda place: output_moments._drawn_logp(
        [head], hidden_CD, numbers, jax.nn.one_hot(place, 12), seeds
    )["loss"]
    logp_CV = jax.nn.log_softmax(logprobs.logits(hidden_CD, head))
    for place in range(12):
        assert np.isclose(logp_CV[place], one(place), atol=1e-5).any()


ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from plain_settings import plain_compute
from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.precondition import directions, output_moments, ridge
from jax_surgery.optim.precondition.moments import second_moments
from jax_surgery.parallel import mesh as meshes

config = ModelConfig(32, 16, 24, 3, 4, 2, 4, initializer_range=0.4)
params = decoder.init_params(config, 0)
moving = Trainable(1, ("v", "gate", "down"))
rng = np.random.default_rng(0)
ids = dict(segment_ids_BT=np.ones((8, 8), np.int32), positions_BT=np.tile(np.arange(8), (8, 1)))
batch = Batch(rng.integers(0, 32, (8, 8)), weights_BT=np.ones((8, 8), np.float32), **ids)

def found(params, batch):
    inputs = second_moments(params, config, [batch], plain_compute(), moving)
    outputs = output_moments.second_moments(params, config, [batch], plain_compute(), moving, 0)
    factors = ridge.factorise(inputs, 1e-2)
    return outputs, ridge.of_outputs(outputs, inputs, 1e-2), factors

wanted = found(params, batch)
gradients = moving.take(jax.tree.map(lambda x: 0.1 * x, params))
with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(data=2, fsdp=2, tp=2))):
    got = found(sharding.place(params), batch.place(8))
    for moments in got[:2]:
        for name, moment in moments.items():
            parts = {s.data.size for s in moment.addressable_shards}
            assert parts == {moment.size // 2}, (name, moment.sharding)
    D = directions.kfac(gradients, got[2]._replace(outputs=got[1]))
for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * abs(np.asarray(y)).max())
alone = directions.kfac(gradients, wanted[2]._replace(outputs=wanted[1]))
for name, y in alone.items():
    np.testing.assert_allclose(D[name], y, rtol=1e-2, atol=1e-3 * abs(np.asarray(y)).max())
print("same")
"""


@pytest.mark.slow
def test_on_eight_devices_the_moments_are_those_of_one_and_stay_split():
    assert on_devices.run(ON_EIGHT_DEVICES).splitlines()[-1] == "same"
