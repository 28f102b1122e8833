# SPDX-License-Identifier: Apache-2.0
"""Tests of how a run keeps to its budget."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from jax_surgery.methods.automatic import controller
from jax_surgery.train.step import TrainState

BUDGET = 0.02
WEIGHT = 100.0


class Momentum(NamedTuple):
    """A state of an optimizer that has momentum."""

    velocity: Any


def keeper(tmp_path, *points):
    """A controller that measures what a test says: (KL, forget, update) each time."""
    left = list(points)

    def measures(params):
        del params
        kl, forget, update = left.pop(0)
        return {"neighbours": kl, "chat": 0.0}, forget, update

    return controller.Controller(
        measures, BUDGET, lambda mean, _: mean, tmp_path, WEIGHT
    )


def state(weight=0.0):
    params = {"w": jnp.full(2, weight)}
    train = TrainState(params, (), jnp.ones((), jnp.int32))
    return controller.begin(train, lambda params: params)


def test_the_factor_rises_where_kl_is_about_to_be_beyond_the_budget():
    after = lambda kl, last: controller.factor_after(1, kl, last, BUDGET)
    assert after(0.03, 0.03) == pytest.approx(1.5**2)
    # On the way there before it is, and on the way back no longer.
    assert after(0.016, 0.006) == pytest.approx(1.3**2)
    assert after(0.024, 0.03) == pytest.approx(0.9)
    # Within it the factor falls as far as KL may rise, a little at a time.
    assert after(0.018, 0.018) == pytest.approx(0.9)
    assert after(0.004, 0.004) == after(0.0, 0.0) == pytest.approx(1 / controller.FALL)
    # At most so far at a time, and never beyond its limits.
    assert after(9, 0) == controller.RISE
    most, least = controller.MOST, controller.LEAST
    assert controller.factor_after(most, 9, 0, BUDGET) == most
    assert controller.factor_after(least, 0, 0, BUDGET) == least


def test_the_first_factor_is_a_share_of_the_one_whose_minimum_costs_the_budget():
    """Along a line of gain p and KL of p / 2 a square unit, loss - p t + factor gamma KL."""
    gain = 5e5
    factor = controller.first_factor(gain, WEIGHT, BUDGET) / controller.FIRST
    units = 1 / (factor * WEIGHT)  # the minimum
    assert 0.5 * gain * units**2 == pytest.approx(BUDGET)
    assert controller.first_factor(1e30, WEIGHT, BUDGET) == controller.MOST


def test_a_run_begins_with_that_factor_and_with_steps_that_cost_their_share(tmp_path):
    keeps = keeper(tmp_path)
    begun = keeps.begin(state(), 5e5)
    wanted = controller.first_factor(5e5, WEIGHT, BUDGET)
    assert float(begun.factor) == pytest.approx(wanted)
    fields = keeps.fields(begun)
    assert float(fields["retain_factor"]) == pytest.approx(wanted)
    # A step of this length in the metric of the KL costs half of its square.
    cost = 0.5 * float(fields["step_factor"]) ** 2
    assert cost == pytest.approx(controller.STEP * BUDGET)
    # Where nothing is to be gained everything stays.
    assert keeps.begin(state(), 0.0).factor == 1


def test_where_kl_stays_beyond_the_budget_the_run_goes_back(tmp_path):
    beyond = 1.5 * BUDGET
    measured = [(0.01, 2, 2), *[(kl * beyond, 1, 1) for kl in (1, 1, 0.9)]]
    keeps = keeper(tmp_path, *measured, (0.018, 1, 1))
    good = keeps.measure(6, state(1.0))
    first = keeps.measure(12, good._replace(mean=state(2.0).mean))
    # The mean is late: one measure says nothing of the factor that has risen.
    second = keeps.measure(18, first._replace(mean=state(2.0).mean))
    assert second.rate == 1 and second.factor > first.factor > good.factor
    third = keeps.measure(24, second._replace(mean=state(3.0).mean))
    assert third.rate == controller.SHORTER and third.factor == second.factor
    went = float(third.train.params["w"][0])
    assert 1 < went < 3 and float(third.mean["w"][0]) == went
    # From there, where nearly all of the budget is spent, KL has fallen.
    last = keeps.measure(30, third)
    ahead = 2 * 0.018 / BUDGET - controller.BACK**2
    assert float(last.factor) == pytest.approx(float(third.factor) * ahead)
    assert last.rate == third.rate


def test_on_the_way_back_to_the_budget_nothing_is_shortened(tmp_path):
    keeps = keeper(tmp_path, *[(kl * BUDGET, 1, 1) for kl in (2, 1.8, 1.5)])
    now = state()
    for step in (6, 12, 18):
        now = keeps.measure(step, now)
    assert now.rate == 1 and int(now.at) == 18


def test_nothing_is_measured_between(tmp_path):
    keeps, now = keeper(tmp_path), state()
    assert [keeps.measure(step, now) is now for step in (0, 1, 2, 5)] == [True] * 4


@pytest.mark.parametrize("kl", [1.01 * controller.TOO_FAR * BUDGET, math.nan])
def test_a_run_that_went_far_beyond_goes_back_with_shorter_steps(tmp_path, kl):
    keeps = keeper(tmp_path, (0.01, 0.5, 0.2), (kl, 0.1, 0.1), (kl, 0.1, 0.1))
    good = keeps.measure(6, state(1.0))
    optimizer = Momentum(velocity={"w": jnp.ones(2)})
    train = state(9.0).train._replace(opt_state=optimizer)
    lost = good._replace(train=train, mean=state(8.0).mean)
    back = keeps.measure(12, lost)
    assert float(back.best["w"][0]) == 1
    # On the way from 1 to 8 to where the budget is spent, as the root of KL says.
    spent = math.sqrt(BUDGET) - math.sqrt(0.01)
    kl = keeps.points[1]["kl"]
    share = controller.BACK * spent / (math.sqrt(kl) - math.sqrt(0.01))
    for tree in (back.train.params, back.mean):
        assert float(tree["w"][0]) == pytest.approx(1 + 7 * share, rel=1e-5)
    assert float(back.train.opt_state.velocity["w"][0]) == 0
    assert float(back.rate) == controller.SHORTER and int(back.at) == 6
    assert float(back.factor) == pytest.approx(controller.RISE * float(good.factor))
    steps = [float(keeps.fields(now)["step_factor"]) for now in (good, back)]
    assert steps[1] == pytest.approx(controller.SHORTER * steps[0])
    # The way there stands among the points, as numbers that JSON has.
    assert [point["step"] for point in keeps.points] == [6, 12]
    assert all(math.isfinite(v) for v in keeps.points[1].values())
    # Without a point within reach it is the start.
    first = keeps.measure(18, state(1.0)._replace(mean=state(5.0).mean))
    assert int(first.at) == 0 and float(first.best["w"][0]) == 1
    share = controller.BACK * math.sqrt(BUDGET / kl)
    wanted = pytest.approx(1 + 4 * share, rel=1e-5)
    assert float(first.train.params["w"][0]) == wanted


def test_within_the_budget_the_nearer_to_its_ends_a_point_is_the_better():
    near = controller.value(0.2, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.9, 0.2, 0.01, BUDGET)
    assert near < controller.value(0.2, 0.9, 0.01, BUDGET)
    # What is beyond the budget costs, and what of it is left over is worth something at the
    # ends alone: not to have begun is not better.
    short = controller.value(0.9, 0.2, 0.01, BUDGET)
    assert short == controller.value(0.9, 0.2, 0.0, BUDGET) > 0
    assert near < controller.value(0.0, 0.0, 2 * BUDGET, BUDGET)
    assert controller.value(0.2, 0.2, 0.005, BUDGET) == pytest.approx(-0.75)
    assert controller.value(0.2, 0.2, BUDGET, BUDGET) == 0


def test_the_best_point_is_kept_and_the_factor_follows_the_worst_kind(tmp_path):
    keeps = keeper(tmp_path, (0.01, 0.9, 0.2), (0.04, 0.8, 0.2), (0.015, 0.7, 0.2))
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

    keeps = controller.Controller(
        measures, BUDGET, lambda mean, _: mean, tmp_path, WEIGHT
    )
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
    keeps = keeper(tmp_path, (0.01, 0.9, 0.2), (0.019, 0.8, 0.2))
    end = keeps.finish(9, keeps.measure(6, state(1.0))._replace(mean=state(3.0).mean))
    assert float(end.best["w"][0]) == 3 and len(keeps.points) == 2


def test_a_measure_that_is_repeated_stands_once_among_the_points(tmp_path):
    keeps = keeper(tmp_path, *[(0.01, 1.0, 1.0)] * 3)
    for step in (6, 12, 12):
        keeps.measure(step, state())
    assert [point["step"] for point in keeps.points] == [6, 12]


def test_a_run_ends_where_its_ends_cost_no_less_any_more(tmp_path):
    """After it has reached them it goes on for less of the budget."""
    there = lambda kl: (kl, 0.01, 0.01)
    measured = [there(0.03), there(0.01), there(0.008), (0.006, 0.9, 0.01)]
    keeps = keeper(tmp_path, *measured, there(0.0081), there(0.0079), there(0.009))
    beyond = keeps.measure(6, state())
    assert not keeps.until(7, beyond, {})
    within = keeps.measure(12, beyond._replace(mean=state(1.0).mean))
    assert within.reached and not keeps.until(13, within, {})
    # The factor aims at less than that of the best point.
    aim = controller.LESS * 0.01
    wanted = controller.factor_after(float(beyond.factor), 0.01, 0.03, aim)
    assert float(within.factor) == pytest.approx(wanted)
    less = keeps.measure(18, within._replace(mean=state(2.0).mean))
    assert int(less.at) == 18 and not keeps.until(19, less, {})
    # What is short of the ends is no better, however little it costs, nor is what costs more.
    short = keeps.measure(24, less)
    assert int(short.at) == 18 and float(short.factor) < float(less.factor)
    more = keeps.measure(30, short)
    assert int(more.at) == 18 and not keeps.until(31, more, {})
    least = keeps.measure(36, more._replace(mean=state(3.0).mean))
    assert int(least.at) == 36
    last = keeps.end(37, least._replace(mean=state(5.0).mean))
    assert last.reached and float(last.best["w"][0]) == 3
    said = controller.verdict(last, keeps.points, BUDGET)
    assert said.startswith("Forgetting and learning reached their ends")
    waited = 36 + controller.PATIENCE * controller.EVERY
    assert keeps.until(waited + 1, last, {}) and not keeps.until(waited, last, {})


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


def test_ends_that_lie_between_two_measures_are_found_there(tmp_path):
    """Within the budget it is not there yet, and there it is beyond the budget."""
    short, there = (0.018, 0.6, 0.6), (0.022, 0.1, 0.2)
    keeps = keeper(tmp_path, short, there, (0.0199, 0.19, 0.24))
    first = keeps.measure(6, state(1.0))
    last = keeps.measure(12, first._replace(mean=state(2.0).mean))
    assert last.reached
    assert 1 < float(last.best["w"][0]) < 2
    assert [point["step"] for point in keeps.points] == [6, 12, 12]
    # Where that is not there either, the run goes on from where it is.
    again = tmp_path / "again"
    again.mkdir()
    keeps = keeper(again, short, there, (0.0199, 0.21, 0.24))
    first = keeps.measure(6, state(1.0))
    last = keeps.measure(12, first._replace(mean=state(2.0).mean))
    assert not last.reached and float(last.factor) > float(first.factor)
    assert float(last.mean["w"][0]) == 2
    # And ends with that point, measured once.
    assert keeps.points[-1]["back"] > 0
