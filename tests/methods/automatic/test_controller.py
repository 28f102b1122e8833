# SPDX-License-Identifier: Apache-2.0
"""Tests of how a run keeps to its budget."""

import jax.numpy as jnp
import pytest

from jax_surgery.methods.automatic import controller
from jax_surgery.train.step import TrainState

BUDGET = 0.02


class Moves:
    """Held-out text whose KL is what a test says, kind by kind."""

    def __init__(self, *kl):
        self.kl_of = list(kl)

    def kl(self, params):
        del params
        return {"neighbours": self.kl_of.pop(0), "chat": 0.0}


def keeper(tmp_path, *kl):
    return controller.Controller(Moves(*kl), BUDGET, lambda params: params, tmp_path)


def state(weight=0.0, forget=1.0, update=1.0):
    params = {"w": jnp.full(2, weight)}
    start = controller.begin(TrainState(params, (), jnp.ones((), jnp.int32)), params)
    return start._replace(forget=jnp.float32(forget), update=jnp.float32(update))


def test_the_factor_rises_beyond_the_budget_and_falls_within():
    assert controller.factor_after(1, 0.03, BUDGET) == pytest.approx(1.5)
    assert controller.factor_after(1, 0.016, BUDGET) == pytest.approx(0.8)
    # At most so far at a time, and never beyond its limits.
    assert controller.factor_after(1, 9, BUDGET) == controller.RISE
    assert controller.factor_after(1, 0, BUDGET) == pytest.approx(1 / controller.FALL)
    assert controller.factor_after(controller.MOST, 9, BUDGET) == controller.MOST
    assert controller.factor_after(controller.LEAST, 0, BUDGET) == controller.LEAST


def test_within_the_budget_the_nearer_to_its_ends_a_point_is_the_better():
    near = controller.value(0.2, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.9, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.2, 0.9, 0.01, BUDGET)
    # What of the budget is left over is worth nothing, what is beyond it costs.
    assert near == controller.value(0.2, 0.2, 0.0, BUDGET)
    assert near < controller.value(0.0, 0.0, 2 * BUDGET, BUDGET)


def test_the_best_point_is_kept_and_the_factor_follows_the_worst_kind(tmp_path):
    keeps = keeper(tmp_path, 0.01, 0.04, 0.015)
    first = keeps.measure(6, state(1.0, forget=0.5, update=0.2))
    assert int(first.at) == 6 and float(first.best["w"][0]) == 1
    assert float(first.factor) == pytest.approx(1 / controller.FALL)
    beyond = keeps.measure(12, first._replace(train=state(2.0).train))
    assert int(beyond.at) == 6 and float(beyond.best["w"][0]) == 1
    assert float(beyond.factor) == pytest.approx(controller.RISE / controller.FALL)
    better = beyond._replace(train=state(3.0).train, forget=jnp.float32(0.3))
    last = keeps.measure(18, better)
    assert int(last.at) == 18 and float(last.best["w"][0]) == 3
    assert [point["step"] for point in keeps.points] == [6, 12, 18]
    assert [point["kl"] for point in keeps.points] == [0.01, 0.04, 0.015]


def test_a_measure_that_is_repeated_stands_once_among_the_points(tmp_path):
    keeps = keeper(tmp_path, 0.01, 0.01, 0.01)
    for step in (6, 12, 12):
        keeps.measure(step, state())
    assert [point["step"] for point in keeps.points] == [6, 12]


def test_a_run_ends_where_the_ends_are_reached_within_the_budget(tmp_path):
    keeps = keeper(tmp_path, 0.03, 0.01)
    reached = state(forget=0.01, update=0.01)
    beyond = keeps.measure(6, reached)
    assert not keeps.until(7, beyond, {})
    within = keeps.measure(12, beyond)
    assert keeps.until(13, within, {}) and not keeps.until(12, within, {})
    said = controller.verdict(within, keeps.points, BUDGET)
    assert said.startswith("Forgetting and learning reached their ends")


@pytest.mark.parametrize(
    ("kl", "said"),
    [(0.05, "The budget is too small"), (0.01, "The ends were not reached")],
)
def test_a_goal_out_of_reach_is_said_with_what_to_change(tmp_path, kl, said):
    keeps = keeper(tmp_path, kl)
    verdict = controller.verdict(keeps.measure(6, state()), keeps.points, BUDGET)
    assert verdict.startswith(said) and "Raise config.retain.budget" in verdict


def test_running_means_of_the_terms_begin_with_their_first_values():
    first = {"unlearn_loss": jnp.float32(4.0)}
    start = state(forget=0.0, update=0.0)
    after = controller.noted(start, start.train._replace(step=jnp.int32(1)), first)
    assert float(after.forget) == 4 and float(after.update) == 0  # a term without rows
    later = {"unlearn_loss": jnp.float32(0.0)}
    after = controller.noted(after, start.train._replace(step=jnp.int32(2)), later)
    assert float(after.forget) == pytest.approx(4 * controller.MEMORY)
