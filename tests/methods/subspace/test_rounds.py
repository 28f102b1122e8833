# SPDX-License-Identifier: Apache-2.0
"""Rounds: how far a step goes, which layers it moves, and where it ends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subspace_model as cases
from subspace_model import COMPUTE, CONFIG, EVERY, UPPER

from jax_surgery.methods.subspace import identify, rounds
from jax_surgery.optim.precondition import discriminate, ridge
from jax_surgery.optim.precondition.moments import second_moments


def how(**changes) -> rounds.Rounds:
    whole = {
        "config": CONFIG,
        "compute": COMPUTE,
        "trainable": UPPER,
        "loss": cases.MARGIN,
        "number": 8,
        "step": 0.003,
        "decay": False,
        "order": "joint",
    }
    return rounds.Rounds(**whole | changes)


def begin(choice, knowledge=()):
    """A state of its own buffers: rounds donate them."""
    own = jax.tree.map(jnp.copy, knowledge)
    return rounds.begin(choice, cases.params_of(), own)


def taken(choice, count: int = 1, knowledge=(), batch=None):
    """(matrices before the first round and after each, the metrics of each)."""
    batch = cases.batch_of() if batch is None else batch
    state = begin(choice, knowledge)
    matrices, metrics = [matrices_of(choice, state)], []
    for _ in range(count):
        state, found = rounds.take_round(choice, state, batch)
        matrices.append(matrices_of(choice, state))
        metrics.append({name: float(value) for name, value in found.items()})
    assert int(state.count) == count
    return matrices, metrics


def matrices_of(choice, state):
    found = choice.trainable.take(state.params)
    return {name: np.asarray(m, np.float64) for name, m in found.items()}


def steps_of(matrices):
    """What each round added, of each matrix."""
    return [
        {name: after[name] - before[name] for name in after}
        for before, after in itertools.pairwise(matrices)
    ]


@pytest.mark.parametrize("decay", [False, True])
def test_every_step_is_its_part_of_the_first_norm(decay):
    matrices, metrics = taken(how(decay=decay, step=0.02, number=4), 4)
    assert all(round["task_norm"] > 0 for round in metrics)
    for count, step in enumerate(steps_of(matrices)):
        part = 0.5 * (1 + np.cos(np.pi * count / 4)) if decay else 1
        wanted = 0.02 * part * cases.norm(matrices[0])
        assert cases.norm(step) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("push", [1.0, -1.0])
def test_a_step_goes_against_the_task_matrix_and_lowers_the_loss(push):
    batch = cases.pushed(cases.batch_of(), push, -push * cases.FAR)
    matrices, metrics = taken(how(), 2, batch=batch)
    assert metrics[1]["loss"] < metrics[0]["loss"]
    task, _ = cases.task_matrix(
        cases.params_of(), CONFIG, batch, cases.MARGIN, COMPUTE, UPPER
    )
    assert metrics[0]["task_norm"] == pytest.approx(cases.norm(task), rel=1e-4)
    scale = 0.003 * cases.norm(matrices[0]) / cases.norm(task)
    for name, step in steps_of(matrices)[0].items():
        np.testing.assert_allclose(step, -scale * task[name], rtol=1e-2, atol=1e-6)


def test_only_the_moving_matrices_change():
    choice, before = how(), cases.params_of()
    state, _ = rounds.take_round(choice, begin(choice), cases.batch_of())
    change = jax.tree.map(jnp.subtract, state.params, before)
    assert cases.norm(change) > 0 and cases.norm(cases.outside(change)) == 0


@pytest.mark.parametrize("adam", [0.0, 0.01])
@pytest.mark.parametrize(
    "order, moving", [("cyclic", [0, 1, 0, 1, 0]), ("first_to_last", [0, 0, 1, 1, 1])]
)
def test_orders_move_one_layer_a_round(order, moving, adam):
    matrices, _ = taken(how(order=order, number=5, adam=adam), 5)
    for step, layer in zip(steps_of(matrices), moving, strict=True):
        for change in step.values():
            assert np.abs(change[layer]).max() > 0
            assert not np.delete(change, layer, 0).any()


def knowledge_for(method: str):
    if method == "none":
        return ()
    if method == "gram_schmidt":
        return discriminate.similar_of([cases.random_matrices(1, UPPER)], 4)
    batch = cases.batch_of(5)
    moments = second_moments(cases.params_of(), CONFIG, [batch], COMPUTE, UPPER)
    return ridge.factorise(moments, 0.01)


@pytest.mark.parametrize("method", ["none", "gram_schmidt", "ridge"])
def test_nothing_left_to_push_moves_nothing(method):
    batch = cases.pushed(cases.batch_of(), 1.0, cases.FAR)
    matrices, metrics = taken(how(), 2, knowledge_for(method), batch)
    assert all(not any(found.values()) for found in metrics)  # 0, and no NaN
    assert not any(cases.norm(step) for step in steps_of(matrices))


@pytest.mark.parametrize("method", ["ridge", "gram_schmidt"])
def test_what_is_retained_turns_the_step_in_every_round(method):
    batch, knowledge, choice = cases.batch_of(), knowledge_for(method), how()
    plain = steps_of(taken(choice, 1)[0])[0]
    state = begin(choice, knowledge)
    weights = cases.norm(matrices_of(choice, state))
    for _ in range(2):
        before, was = matrices_of(choice, state), jax.tree.map(jnp.copy, state.params)
        state, found = rounds.take_round(choice, state, batch)
        task, _ = cases.task_matrix(was, CONFIG, batch, cases.MARGIN, COMPUTE, UPPER)
        turned = discriminate.discriminate(task, knowledge, rounds.GRAM_SCHMIDT_RANK)
        size = cases.norm(turned)
        assert float(found["task_norm"]) == pytest.approx(size, rel=1e-3)
        step = steps_of([before, matrices_of(choice, state)])[0]
        scale = 0.003 * weights / size
        for name, change in step.items():
            wanted = -scale * np.asarray(turned[name])
            np.testing.assert_allclose(change, wanted, rtol=1e-2, atol=2e-6)
            assert np.abs(change - plain[name]).max() > 1e-4  # not as without
    jax.tree.map(np.testing.assert_array_equal, state.knowledge, knowledge)


@pytest.mark.parametrize("order", ["joint", "cyclic", "first_to_last"])
def test_adam_is_optaxs_on_each_layers_matrices(order):
    choice, batch = how(order=order, number=5, adam=0.01), cases.batch_of()
    state, optimizer = begin(choice), optax.adam(0.01)
    layers = range(CONFIG.num_layers - UPPER.first_layer)

    def at(matrices, layer):
        return {name: m[layer] for name, m in matrices.items()}

    own = [optimizer.init(at(UPPER.take(state.params), layer)) for layer in layers]
    for count in range(5):
        task, _ = cases.task_matrix(
            state.params, CONFIG, batch, cases.MARGIN, COMPUTE, UPPER
        )
        before = matrices_of(choice, state)
        share = identify.layer_share(order, len(layers), jnp.int32(count), 5)
        state, _ = rounds.take_round(choice, state, batch)
        after = matrices_of(choice, state)
        for layer in layers:
            wanted = {name: 0.0 for name in task}
            if share[layer]:
                wanted, own[layer] = optimizer.update(at(task, layer), own[layer])
            for name, change in wanted.items():
                found = after[name][layer] - before[name][layer]
                np.testing.assert_allclose(found, change, rtol=2e-2, atol=1e-6)


def test_rounds_end_with_every_token_on_its_side_of_its_bound():
    batch = cases.batch_of()
    push = batch.token_weights_BT
    batch = batch.replace(target_log_odds_BT=jnp.where(push > 0, -6.0, 0.0))
    choice = how(trainable=EVERY, step=0.01, number=200)
    state = begin(choice)
    assert cases.is_open(state.params, batch).sum() >= 8
    for _ in range(choice.number):
        state, metrics = rounds.take_round(choice, state, batch)
        if not float(metrics["pushed_down"] + metrics["pushed_up"]):
            break
    assert not cases.is_open(state.params, batch).any()
