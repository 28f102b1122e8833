# SPDX-License-Identifier: Apache-2.0
"""Intervals of what belongs together, and comparisons in pairs."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jax_surgery.data.questions import Question
from jax_surgery.metrics import METRICS, multiple_choice, paired
from jax_surgery.metrics.base import Estimate
from jax_surgery.metrics.intervals import (
    by_cluster,
    clustered_share,
    independent,
    wilson,
    wilson_interval,
)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_of_clusters_of_one_the_interval_is_wilsons(right):
    found = clustered_share(np.array(right), np.ones(len(right)))
    np.testing.assert_allclose(found, wilson_interval(sum(right), len(right)))


def test_wilson_is_that_of_scipy():
    for right, count, level in ((0, 5, 0.95), (3, 7, 0.9), (9, 9, 0.999)):
        wanted = stats.binomtest(right, count).proportion_ci(level, method="wilson")
        found = wilson(right / count, count, level)
        np.testing.assert_allclose(found, (wanted.low, wanted.high), atol=1e-12)


def test_95_of_100_intervals_hold_the_share_of_clusters():
    """Tokens of a text are right together: as if each were alone, few intervals hold it."""
    rng, held, naive, draws = np.random.default_rng(0), 0, 0, 300
    for _ in range(draws):
        counts = rng.integers(5, 15, 40)
        right = rng.binomial(counts, rng.beta(0.6, 0.4, 40))
        low, high = clustered_share(right, counts)
        held += low <= 0.6 <= high
        low, high = wilson_interval(int(right.sum()), int(counts.sum()))
        naive += low <= 0.6 <= high
    assert 0.91 <= held / draws <= 0.99
    assert naive / draws < 0.75


def test_all_right_of_one_text_says_as_much_as_one_answer():
    assert clustered_share(np.array([50]), np.array([50])) == wilson_interval(1, 1)
    assert clustered_share(np.full(4, 9), np.full(4, 9)) == wilson_interval(4, 4)


def test_questions_about_one_person_are_drawn_together():
    asked = tuple(
        Question(f"q{i}", "g", "trained", "p", ("a", "b"), 0, about=f"g/{i // 10}")
        for i in range(100)
    )
    choice = np.array([(i // 10) % 2 for i in range(100)])
    none = tuple(np.zeros(2) for _ in asked)
    together = multiple_choice.summarise(multiple_choice.Answers(asked, choice, none))
    alone = tuple(dataclasses.replace(q, about="") for q in asked)
    apart = multiple_choice.summarise(multiple_choice.Answers(alone, choice, none))
    assert (together["g"]["n"], together["g"]["about"], apart["g"]["about"]) == (
        100,
        10,
        100,
    )
    width = lambda found: np.subtract(*found["g"]["interval"][::-1])
    assert width(apart) == pytest.approx(width({"g": {"interval": wilson(0.5, 100)}}))
    assert width(together) > 2.5 * width(apart)


def test_clusters_are_summed_in_their_order():
    sums, counts = by_cluster(np.array([1, 2, 3, 4]), ["b", "a", "b", "c"])
    np.testing.assert_array_equal(sums, [4, 2, 4])
    np.testing.assert_array_equal(counts, [2, 1, 1])


def test_a_score_that_is_no_number_is_an_error():
    metric = dataclasses.replace(
        METRICS["likelihood"], estimate=lambda *_: Estimate(float("nan"), (0.0, 1.0), 3)
    )
    with pytest.raises(
        ValueError, match="likelihood of 'g' is nan, .*no finite number"
    ):
        metric.measured(None, dataclasses.make_dataclass("P", ["group"])("g"))


def test_ten_of_ten_that_are_better_are_a_sign_test():
    found = paired.of_things([1.0] * 10, [0.0] * 10, list(range(10)))
    assert found.difference == 1 and found.n == 10
    assert found.p == pytest.approx(2 / 2**10)  # all signs are tried
    assert paired.of_things([1, 0], [1, 0], "ab").p == 1.0


def test_pairs_see_what_intervals_that_overlap_hide():
    """The questions differ much more than the models do."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 1, 200)
    one, other = hard + 0.02 + rng.normal(0, 0.02, 200), hard
    found = paired.of_things(one, other, list(range(200)))
    assert found.p < 1e-3 and found.interval[0] > 0.01
    apart = stats.ttest_ind(one, other).pvalue
    assert apart > 0.3


def test_what_is_about_one_person_counts_once():
    one, other = [1.0] * 40, [0.0] * 40
    about = [i // 20 for i in range(40)]
    found = paired.of_things(one, other, about)
    assert (found.n, found.p) == (2, 0.5)


@pytest.mark.slow
def test_without_a_difference_p_is_uniform():
    rng = np.random.default_rng(3)
    draws = (rng.binomial(1, 0.5, (2, 40)) for _ in range(60))
    found = [paired.of_things(one, other, list(range(40))).p for one, other in draws]
    assert np.mean(np.array(found) < 0.05) <= 0.12 and np.mean(found) > 0.4


def test_seeds_are_compared_by_students_t():
    one, other = [0.91, 0.93, 0.95], [0.90, 0.90, 0.91]
    found = paired.of_seeds(one, other)
    wanted = stats.ttest_rel(one, other)
    assert found.p == pytest.approx(wanted.pvalue) and found.n == 3
    assert found.interval[0] < found.difference < found.interval[1]
    mean, interval = paired.mean_of_seeds(one)
    assert mean == pytest.approx(0.93) and interval is not None
    wanted = stats.t.interval(0.95, 2, mean, stats.sem(one))
    np.testing.assert_allclose(interval, wanted)
    assert paired.mean_of_seeds([0.5]) == (0.5, None)
    assert paired.of_seeds([0.5, 0.6], [0.5, 0.6]).p == 1.0


def test_holm_adjusts_for_all_tests():
    found = paired.holm([0.01, 0.04, 0.03, 0.2])
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, 0.2])
    assert paired.holm([]) == []


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_as_many_independent_answers_have_the_interval_of_answers_about_people(share):
    interval = wilson(share, 37.0)
    assert independent(share, interval, 400) == pytest.approx(37.0, rel=1e-6)
    # No more than were counted, and of a wider interval fewer.
    assert independent(share, interval, 20) == 20
    assert independent(share, (0.0, 1.0), 400) < 1
