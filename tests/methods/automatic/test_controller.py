# SPDX-License-Identifier: Apache-2.0
"""Tests of how a run keeps to its budget."""

import jax.numpy as jnp
import pytest

from jax_surgery.methods.automatic import controller
from jax_surgery.train.step import TrainState

BUDGET = 0.02


def keeper(tmp_path, *points):
    """A controller that measures what a test says: (KL, forget, update) each time."""
    left = list(points)

    def measures(params):
        del params
        kl, forget, update = left.pop(0)
        return {"neighbours": kl, "chat": 0.0}, forget, update

    return controller.Controller(measures, BUDGET, lambda mean, _: mean, tmp_path)


def state(weight=0.0):
    params = {"w": jnp.full(2, weight)}
    train = TrainState(params, (), jnp.ones((), jnp.int32))
    return controller.begin(train, lambda params: params)


def test_the_factor_rises_beyond_the_budget_and_falls_within():
    assert controller.factor_after(1, 0.03, BUDGET) == pytest.approx(1.5**2)
    # It does not fall on the way to the budget, or the run goes beyond it.
    assert controller.factor_after(1, 0.016, BUDGET) == 1
    assert controller.factor_after(1, 0.006, BUDGET) == 1
    # At most so far at a time, and never beyond its limits.
    assert controller.factor_after(1, 9, BUDGET) == controller.RISE
    assert controller.factor_after(1, 0, BUDGET) == pytest.approx(1 / controller.FALL)
    assert controller.factor_after(controller.MOST, 9, BUDGET) == controller.MOST
    assert controller.factor_after(controller.LEAST, 0, BUDGET) == controller.LEAST


def test_the_first_step_is_measured_and_sets_how_long_the_others_are():
    costs = controller.FIRST * BUDGET
    assert controller.first_rate(1, costs, BUDGET) == pytest.approx(1)
    # Of a quarter of that twice as long, since KL grows with the square.
    assert controller.first_rate(1, costs / 4, BUDGET) == pytest.approx(2)
    assert controller.first_rate(0.5, costs * 4, BUDGET) == pytest.approx(0.25)
    assert controller.first_rate(1, 0, BUDGET) == controller.MOST_AT_FIRST
    assert controller.first_rate(1, 1e9, BUDGET) == 1 / controller.MOST_AT_FIRST


def test_steps_grow_while_little_of_the_budget_is_used():
    assert controller.rate_after(3, controller.SLOW * BUDGET, BUDGET) == 3
    assert controller.rate_after(3, 10 * BUDGET, BUDGET) == 3
    less = controller.SLOW * BUDGET / 2.25
    assert controller.rate_after(3, less, BUDGET) == pytest.approx(4.5)
    assert controller.rate_after(3, 0, BUDGET) == 3 * controller.FASTER


def test_the_first_measure_is_of_the_weights_and_moves_the_rate_alone(tmp_path):
    seen = []

    def measures(params):
        seen.append(float(params["w"][0]))
        return {"chat": 4 * controller.FIRST * BUDGET}, 1.0, 1.0

    keeps = controller.Controller(measures, BUDGET, lambda mean, _: mean, tmp_path)
    before = state(2.0)._replace(mean=state(1.0).mean)
    after = keeps.measure(1, before)
    assert seen == [2.0] and float(after.rate) == pytest.approx(0.5)
    assert after.factor == 1 and after.value == before.value and after.at == 0
    assert {"retain_factor": 1, "step_factor": 0.5} == after.fields
    [point] = keeps.points
    assert (point["step"], point["rate"]) == (1, 1)
    # Nothing is measured between.
    assert [keeps.measure(step, after) is after for step in (0, 2, 5)] == [True] * 3


def test_within_the_budget_the_nearer_to_its_ends_a_point_is_the_better():
    near = controller.value(0.2, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.9, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.2, 0.9, 0.01, BUDGET)
    # What of the budget is left over is worth nothing, what is beyond it costs.
    assert near == controller.value(0.2, 0.2, 0.0, BUDGET)
    assert near < controller.value(0.0, 0.0, 2 * BUDGET, BUDGET)


def test_the_best_point_is_kept_and_the_factor_follows_the_worst_kind(tmp_path):
    keeps = keeper(tmp_path, (0.01, 0.5, 0.2), (0.04, 0.4, 0.2), (0.015, 0.3, 0.2))
    first = keeps.measure(6, state(1.0))
    assert int(first.at) == 6 and float(first.best["w"][0]) == 1
    assert float(first.factor) == 1
    beyond = keeps.measure(12, first._replace(mean=state(2.0).mean))
    assert int(beyond.at) == 6 and float(beyond.best["w"][0]) == 1
    assert float(beyond.factor) == controller.RISE
    last = keeps.measure(18, beyond._replace(mean=state(3.0).mean))
    assert int(last.at) == 18 and float(last.best["w"][0]) == 3
    assert [point["step"] for point in keeps.points] == [6, 12, 18]
    assert [point["kl"] for point in keeps.points] == [0.01, 0.04, 0.015]


def test_a_run_that_ends_beyond_its_budget_goes_back_to_it(tmp_path):
    """KL is the square of the weight here: the budget is spent between 1 and 3."""
    seen = []

    def measures(params):
        seen.append(float(params["w"][0]))
        return {"chat": 0.005 * seen[-1] ** 2}, 2.0 - 0.5 * seen[-1], 0.0

    keeps = controller.Controller(measures, BUDGET, lambda mean, _: mean, tmp_path)
    first = keeps.measure(6, state(1.0))
    end = keeps.finish(9, first._replace(mean=state(3.0).mean))
    # sqrt(BUDGET / 0.005) = 2, of which `BACK` of the way from 1 is gone.
    wanted = 1 + controller.BACK
    assert seen == [1, 3, pytest.approx(wanted)]
    assert float(end.best["w"][0]) == pytest.approx(wanted) and int(end.at) == 9
    assert [point.get("back") for point in keeps.points[:2]] == [None, None]
    assert keeps.points[2]["back"] == pytest.approx(controller.BACK / 2)
    best = controller.point_at(keeps.points, 9)
    assert best == keeps.points[2] and best["kl"] < BUDGET
    assert f"{best['kl']:.2g} of {BUDGET:g}" in controller.verdict(
        end, keeps.points, BUDGET
    )
    # A run that is resumed at its end measures the same once more, and notes it once.
    keeps.finish(9, first._replace(mean=state(3.0).mean))
    assert len(keeps.points) == 3


def test_a_run_that_ends_within_its_budget_stays_there(tmp_path):
    keeps = keeper(tmp_path, (0.01, 0.5, 0.2), (0.019, 0.4, 0.2))
    end = keeps.finish(9, keeps.measure(6, state(1.0))._replace(mean=state(3.0).mean))
    assert float(end.best["w"][0]) == 3 and len(keeps.points) == 2


def test_a_measure_that_is_repeated_stands_once_among_the_points(tmp_path):
    keeps = keeper(tmp_path, *[(0.01, 1.0, 1.0)] * 3)
    for step in (6, 12, 12):
        keeps.measure(step, state())
    assert [point["step"] for point in keeps.points] == [6, 12]


def test_a_run_ends_where_the_ends_are_reached_within_the_budget(tmp_path):
    keeps = keeper(tmp_path, (0.03, 0.01, 0.01), (0.01, 0.01, 0.01), (0.021, 0, 0))
    beyond = keeps.measure(6, state())
    assert not keeps.until(7, beyond, {})
    within = keeps.measure(12, beyond)
    assert keeps.until(13, within, {}) and not keeps.until(12, within, {})
    # One more step is taken before the run sees it, and is measured at the end.
    last = keeps.end(13, within._replace(mean=state(5.0).mean))
    assert last.reached and int(last.at) == 12 and float(last.best["w"][0]) == 0
    said = controller.verdict(last, keeps.points, BUDGET)
    assert said.startswith("Forgetting and learning reached their ends")


@pytest.mark.parametrize(
    ("kl", "said", "raised"),
    [
        (0.05, "The budget is too small", "config.retain.budget"),
        (0.01, "The ends were not reached", "config.retain.budget"),
        (0.001, "The ends were not reached", "config.steps"),
    ],
)
def test_a_goal_out_of_reach_is_said_with_what_to_change(tmp_path, kl, said, raised):
    keeps = keeper(tmp_path, (kl, 1.0, 1.0))
    verdict = controller.verdict(keeps.measure(6, state()), keeps.points, BUDGET)
    assert verdict.startswith(said) and f"Raise {raised}" in verdict


def test_the_mean_of_the_weights_begins_with_the_first_and_follows_the_last():
    cut = lambda params: params
    now, weights = state(0.0), [3.0, 6.0, *[9.0] * 40]
    for step, weight in enumerate(weights, start=1):
        new = state(weight).train._replace(step=jnp.int32(step))
        now = controller.stepped(now, new, cut)
        if step == 1:  # two thirds are the new weights
            assert float(now.mean["w"][0]) == pytest.approx(2.0)
    assert 8.5 < float(now.mean["w"][0]) < 9.0
