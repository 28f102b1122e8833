# SPDX-License-Identifier: Apache-2.0
"""AUC, true positives at few false ones, and their intervals, against counting and draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.metrics import membership, separation

values = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def pairs_won(positives, negatives) -> float:
    won = [(p < n) + 0.5 * (p == n) for p in positives for n in negatives]
    return float(np.mean(won))


@settings(max_examples=30)
@given(values, values)
def test_the_auc_counts_pairs(positives, negatives):
    found = separation.auc(np.array(positives), np.array(negatives))
    assert found == pytest.approx(pairs_won(positives, negatives))


@settings(max_examples=30)
@given(values, values, st.sampled_from([0.001, 0.01, 0.1, 0.25, 0.5]))
def test_true_positives_are_the_most_at_so_many_false_ones(positives, negatives, rate):
    positives, negatives = np.array(positives), np.array(negatives)
    found = separation.true_positive_rate(positives, negatives, rate)
    best = 0.0
    for threshold in [*range(8)]:
        if (negatives < threshold).mean() <= rate:
            best = max(best, float((positives < threshold).mean()))
    assert found == best


@settings(max_examples=30)
@given(values, values)
def test_intervals_hold_their_values(positives, negatives):
    found = separation.separation(positives, negatives)
    for rate in (found.auc, *found.tpr.values()):
        low, high = rate.interval
        assert 0 <= low <= rate.value <= high <= 1


def test_few_texts_that_are_told_apart_are_no_proof():
    """All resamples would be alike: a bootstrap would give [1, 1]."""
    found = separation.separation(np.arange(8.0), 10 + np.arange(8.0))
    assert found.auc.value == 1 and 0.6 < found.auc.interval[0] < 0.9
    # No unseen text below them: of all there are more than 1 % may be.
    assert found.tpr[0.01].value == 1 and found.tpr[0.01].interval == (0.0, 1.0)
    found = separation.separation(np.arange(99.0), 100 + np.arange(999.0))
    assert found.tpr[0.01].interval[0] > 0.95 and found.tpr[0.001].interval[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_95_of_100_intervals_hold_what_is_true(shift):
    """Normal scores, whose AUC and rates are known."""
    from scipy.stats import norm

    rng, draws, sizes = np.random.default_rng(0), 300, (60, 600)
    held = {"auc": 0, 0.01: 0}
    true = {"auc": norm.cdf(shift / np.sqrt(2)), 0.01: norm.cdf(norm.ppf(0.01) + shift)}
    for _ in range(draws):
        members, others = (rng.normal(m, 1, n) for m, n in zip((-shift, 0), sizes))
        found = separation.separation(members, others)
        low, high = found.auc.interval
        held["auc"] += low <= true["auc"] <= high
        low, high = found.tpr[0.01].interval
        held[0.01] += low <= true[0.01] <= high
    assert 0.91 <= held["auc"] / draws <= 0.99
    assert held[0.01] / draws >= 0.91


def test_a_difference_in_pairs_is_that_of_resampled_texts():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=200), rng.normal(size=220)
    one = tuple(s + rng.normal(m, 0.5, len(s)) for s, m in zip(shared, (-1.0, 0.0)))
    other = tuple(s + rng.normal(m, 0.5, len(s)) for s, m in zip(shared, (-0.4, 0.0)))
    found = separation.compared((one[0], other[0]), (one[1], other[1]))
    apart = separation.auc(*one) - separation.auc(*other)
    assert found.value == pytest.approx(apart)
    drawn = []
    for _ in range(400):
        i, j = (rng.integers(0, len(s), len(s)) for s in shared)
        drawn.append(separation.auc(one[0][i], one[1][j]))
        drawn[-1] -= separation.auc(other[0][i], other[1][j])
    ends = np.percentile(drawn, [2.5, 97.5])
    np.testing.assert_allclose(found.interval, ends, atol=0.02)
    assert found.p < 1e-3
    same = separation.compared((one[0], one[0]), (one[1], one[1]))
    assert (same.value, same.p) == (0.0, 1.0)
    with pytest.raises(ValueError, match="give two or more members"):
        separation.compared((one[0][:1], other[0][:1]), (one[1], other[1]))


def test_the_curve_passes_through_its_rates():
    members, others = np.array([0.0, 1, 1, 3]), np.array([1.0, 2, 4, 5])
    false, true = separation.curve(members, others)
    np.testing.assert_array_equal(false, [0, 0, 0.25, 0.5, 0.5, 0.75, 1])
    np.testing.assert_array_equal(true, [0, 0.25, 0.75, 0.75, 1, 1, 1])
    area = np.trapezoid(true, false)
    assert area == pytest.approx(separation.auc(members, others))


def test_scores_that_are_no_numbers_are_refused():
    for broken in (np.array([]), np.array([np.nan, 1.0])):
        with pytest.raises(ValueError, match="no finite numbers; membership needs"):
            separation.separation(broken, np.arange(3.0))


def test_scores_are_their_formulas():
    logp = np.array([-1.0, -4.0, -0.5, -2.0, -0.1])
    assert membership.loss(logp) == pytest.approx(1.52)
    assert membership.min_k(logp, 0.4) == 3.0  # of two tokens
    assert membership.min_k(logp[:2], 0.4) == 4.0  # of one at least
    mean, variance = np.full(5, -2.0), np.array([4.0, 1.0, 0.0, 4.0, 1.0])
    # The third has no spread, and a deviation of a thousandth.
    scaled = [0.5, -2.0, 1500.0, 0.0, 1.9]
    assert membership.min_k_plus_plus(logp, mean, variance, 0.4) == pytest.approx(
        -(scaled[1] + scaled[3]) / 2
    )
    assert membership.min_k_plus_plus(logp, mean, variance, 1.0) == pytest.approx(
        -np.mean(scaled)
    )
    assert membership.over_zlib(2.0, "a" * 400) > membership.over_zlib(
        2.0, "abcdefghijklmnopqrstuvwxyz" * 2
    )


def test_privacy_leakage_is_the_published_one():
    """Of MUSE News' target and retrained models, by their published AUCs."""
    leakage = membership.privacy_leakage(1 - 0.0009, 1 - 0.4772)
    assert leakage == pytest.approx(-99.81, abs=0.005)
    assert membership.privacy_leakage(0.7, 0.7) == 0
    with pytest.raises(ValueError, match="not defined: the reference model"):
        membership.privacy_leakage(0.9, 1.0)
