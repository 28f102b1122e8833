# SPDX-License-Identifier: Apache-2.0
"""Identification against the losses' formulas from all logits at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subspace_model as cases
from dense_logprobs import capped
from subspace_model import COMPUTE, CONFIG, EVERY, UPPER

from jax_surgery.methods.subspace import identify
from jax_surgery.methods.subspace.identify import TaskLoss
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.precondition.moments import second_moments

MARGIN = cases.MARGIN
run_pull = jax.jit(identify.pull, static_argnums=(1, 3, 4, 5))
dense = jax.jit(jax.value_and_grad(cases.dense_pull), static_argnums=2)


@pytest.fixture(scope="module")
def params():
    return cases.params_of()


def pull(params, batch, loss=MARGIN, trainable=EVERY):
    value, sums = run_pull(params, CONFIG, batch, loss, COMPUTE, trainable)
    return float(value), {name: float(count) for name, count in sums.items()}


def task_matrix(params, batch, loss=MARGIN, trainable=EVERY):
    return cases.task_matrix(params, CONFIG, batch, loss, COMPUTE, trainable)


@pytest.mark.parametrize("seed", [0, 1])
def test_margins_are_summed_where_they_are_on_the_wrong_side(params, seed):
    batch = cases.batch_of(seed)
    open_BT = cases.is_open(params, batch)
    push = np.asarray(batch.token_weights_BT)[:, 1:]
    for side in (push > 0, push < 0):  # of each kind some count and some do not
        assert 0 < (open_BT & side).sum() < side.sum()
    value, sums = pull(params, batch)
    wanted = (push * cases.margins(params, batch) * open_BT).sum()
    assert value == pytest.approx(wanted, rel=1e-5)
    assert sums == {
        "pushed_down": (open_BT & (push > 0)).sum(),
        "pushed_up": (open_BT & (push < 0)).sum(),
    }


@pytest.mark.parametrize("temperature, cap", [(1.0, None), (4.0, 2.0)])
def test_cross_entropy_is_log_p_at_a_temperature_without_bounds(
    params, temperature, cap
):
    """Of the logits as the model gives them: capped, where it caps them."""
    batch = cases.batch_of()
    config = dataclasses.replace(CONFIG, final_softcap=cap)
    loss = TaskLoss("cross_entropy", temperature)
    value, sums = run_pull(params, config, batch, loss, COMPUTE, EVERY)
    logits = np.asarray(cases.logits_of(params, batch), np.float64)
    logits = capped(logits, cap)[0] / temperature
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.take_along_axis(logp, np.asarray(cases.targets(batch))[..., None], -1)
    at = at[..., 0]
    push = np.asarray(batch.token_weights_BT)[:, 1:]
    assert value == pytest.approx((push * at).sum(), rel=1e-5)
    assert sums == {"pushed_down": (push > 0).sum(), "pushed_up": (push < 0).sum()}


@pytest.mark.parametrize(
    "loss", [MARGIN, TaskLoss("cross_entropy", 4.0), TaskLoss("cross_entropy", 1.0)]
)
def test_the_task_matrix_is_the_gradient_of_the_dense_formula(params, loss):
    batch = cases.batch_of()
    open_BT = cases.is_open(params, batch) if loss.kind == "margin" else None
    value, gradient = dense(params, batch, loss, open_BT)
    found, metrics = task_matrix(params, batch, loss)
    assert set(metrics) == {"loss", "pushed_down", "pushed_up"}
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    for name, matrix in EVERY.take(gradient).items():
        scale = float(jnp.abs(matrix).max())
        np.testing.assert_allclose(found[name], matrix, rtol=2e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("push", [2.0, -2.0])
@pytest.mark.parametrize("above", [True, False])
def test_a_token_is_pushed_until_its_bound_from_either_side(params, push, above):
    """Down while it is above its bound, up while it is below; else not at all."""
    batch = cases.batch_of()
    margin = cases.margins(params, batch)[0, 3]
    alone = np.zeros(batch.token_weights_BT.shape, np.float32)
    alone[0, 4] = push
    bound = np.full(alone.shape, margin + (-1e-3 if above else 1e-3), np.float32)
    batch = batch.replace(
        token_weights_BT=jnp.asarray(alone), target_log_odds_BT=jnp.asarray(bound)
    )
    value, sums = pull(params, batch)
    moves = (push > 0) == above
    assert value == pytest.approx(push * margin if moves else 0, rel=1e-4)
    assert sums == {
        "pushed_down": float(moves and push > 0),
        "pushed_up": float(moves and push < 0),
    }
    assert (cases.norm(task_matrix(params, batch)[0]) > 0) == moves


def test_tokens_without_push_have_no_gradient(params):
    batch = cases.batch_of()
    task, metrics = task_matrix(params, cases.pushed(batch, 0.0, -cases.FAR))
    assert cases.norm(task) == 0 and not any(map(float, metrics.values()))
    # Of one pushed token, neither other bounds nor what follows it matters.
    alone = np.zeros(batch.token_weights_BT.shape, np.float32)
    alone[0, 3] = 1
    batch = batch.replace(
        token_weights_BT=jnp.asarray(alone),
        target_log_odds_BT=jnp.full(alone.shape, -cases.FAR),
    )
    others = batch.replace(
        target_log_odds_BT=jnp.where(alone == 0, cases.FAR, batch.target_log_odds_BT),
        tokens_BT=batch.tokens_BT.at[0, 4:].add(1).at[1].add(1) % 32,
    )
    one, other = (task_matrix(params, b)[0] for b in (batch, others))
    assert cases.norm(one) > 0
    for name, matrix in one.items():
        np.testing.assert_allclose(matrix, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainable", [UPPER, Trainable(2, ("q", "v", "gate"))])
def test_only_what_moves_has_a_gradient(params, trainable):
    batch = cases.batch_of()
    every, some = (task_matrix(params, batch, MARGIN, t)[0] for t in (EVERY, trainable))
    assert set(some) == set(trainable.matrices)
    for name, matrix in some.items():
        assert matrix.shape[0] == CONFIG.num_layers - trainable.first_layer
        wanted = every[name][trainable.first_layer :]
        np.testing.assert_allclose(matrix, wanted, rtol=1e-4, atol=1e-5)


def test_nothing_else_has_a_gradient(params):
    gradient, _ = jax.jit(
        jax.grad(identify.pull, has_aux=True), static_argnums=(1, 3, 4, 5)
    )(params, CONFIG, cases.batch_of(), MARGIN, COMPUTE, UPPER)
    assert cases.norm(gradient) > 0 and cases.norm(cases.outside(gradient)) == 0


def test_task_matrices_lie_in_the_span_of_their_inputs(params):
    """Of a token after two others every matrix' gradient has rank two at most."""
    batch = cases.batch_of()
    alone = np.zeros(batch.token_weights_BT.shape, np.float32)
    alone[0, 2] = 1
    weights = np.zeros_like(alone)
    weights[0, :2] = 1
    batch = batch.replace(
        token_weights_BT=jnp.asarray(alone), moment_weights_BT=weights
    )
    task, _ = task_matrix(params, batch, TaskLoss("cross_entropy", 1.0))
    moments = second_moments(params, CONFIG, [batch], COMPUTE, EVERY)
    for name, matrix in task.items():
        for layer in range(CONFIG.num_layers):
            found = np.asarray(matrix[layer], np.float64)
            values, vectors = np.linalg.eigh(
                np.asarray(moments[MATRICES[name].statistic][layer])
            )
            assert np.all(values[:-2] < 1e-4 * values[-1])
            outside = np.linalg.norm(vectors[:, :-2].T @ found)
            assert outside < 2e-3 * np.linalg.norm(found)


@pytest.mark.parametrize("count", range(7))
def test_orders_say_which_layers_move(count):
    def share(order, layers, rounds):
        found = identify.layer_share(order, layers, jnp.int32(count), rounds)
        return np.asarray(found).tolist()

    assert share("joint", 3, 7) == [1, 1, 1]
    assert share("cyclic", 3, 7) == np.eye(3)[count % 3].tolist()
    # Two rounds each; the last layer has those that are left over.
    assert (
        share("first_to_last", 3, 7) == np.eye(3)[[0, 0, 1, 1, 2, 2, 2][count]].tolist()
    )


def test_orders_that_cannot_be_are_told():
    with pytest.raises(ValueError, match="number=2: .*each of 3 layers.*use 3 or more"):
        identify.layer_share("first_to_last", 3, jnp.int32(0), 2)


@pytest.mark.parametrize("chance", [0.5, 0.1, 1 / 23])
def test_chance_odds_are_the_margin_of_a_guess(chance):
    odds = identify.chance_odds(chance)
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(chance, rel=1e-12)
    # Of so many equal logits one is so much above the logsumexp of the others.
    assert odds == pytest.approx(-np.log(1 / chance - 1))
