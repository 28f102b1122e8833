# SPDX-License-Identifier: Apache-2.0
"""Comparisons in pairs: two models that were asked the same, or seeds of two methods."""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from jax_surgery.metrics.intervals import Interval, bootstrap_ratio, by_cluster

RESAMPLES = 9999  # of signs; of fewer possible ones all are taken
LEAST_SEEDS = 2


@dataclasses.dataclass(frozen=True)
class Paired:
    """A difference of two means over the same things.

    Attributes:
      difference: the first less the second.
      interval: its 95 % interval; of two seeds wide, as it is.
      p: of no difference, two-sided.
      n: independent pairs: seeds, or the people and texts that are asked about.
    """

    difference: float
    interval: Interval
    p: float
    n: int


def of_things(
    one: Sequence[float], other: Sequence[float], about: Sequence[Hashable]
) -> Paired:
    """Compares two models on the same questions or texts.

    What is about the same person or thing is one observation. The p is of a permutation
    test: without a difference each observation could as well have the other sign. The
    interval is of a bootstrap over observations.

    Args:
      one, other: values of the same things, in the same order; at least one.
      about: what each is about (see `Each.about`).
    """
    from scipy import stats  # takes half a second to import

    sums, counts = by_cluster(np.subtract(one, other), about)
    moved = sums[sums != 0]  # signs of zeros change nothing
    p = 1.0
    if len(moved):
        p = stats.permutation_test(
            (moved,),
            lambda values, axis: values.sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, (1 << 22) // len(moved)),
            rng=np.random.default_rng(0),
        ).pvalue
    interval = bootstrap_ratio(sums, counts)
    return Paired(float(sums.sum() / counts.sum()), interval, float(p), len(sums))


def of_seeds(one: Sequence[float], other: Sequence[float]) -> Paired:
    """Compares two methods over seeds, whose runs are paired: Student's t of differences.

    Args:
      one, other: a value of each seed, in the same order; at least `LEAST_SEEDS`.
    """
    from scipy import stats

    apart = np.subtract(one, other)
    mean, count = float(apart.mean()), len(apart)
    if not apart.std():  # all alike: no spread to test against
        return Paired(mean, (mean, mean), float(mean == 0), count)
    found = stats.ttest_rel(one, other)
    low, high = found.confidence_interval(0.95)
    return Paired(mean, (float(low), float(high)), float(found.pvalue), count)


def mean_of_seeds(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The mean over seeds, and its 95 % interval (Student's t); of one seed None."""
    from scipy import stats

    mean, count = float(np.mean(values)), len(values)
    if count < LEAST_SEEDS:
        return mean, None
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return mean, (mean - float(half), mean + float(half))


def holm(p: Sequence[float]) -> list[float]:
    """p of several tests, each adjusted for all of them (Holm 1979)."""
    found, highest = [0.0] * len(p), 0.0
    for place, number in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - place) * p[number]))
        found[number] = highest
    return found
