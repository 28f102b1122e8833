# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals, 95 % where nothing else is said, as SciPy computes them."""

import numpy as np

DRAWS = 2000  # resamples of a bootstrap
VALUES = 1 << 24  # drawn at a time, at most about

Interval = tuple[float, float]


def wilson_interval(right: int, count: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    # SciPy's statistics take half a second to import.
    from scipy import stats

    if count == 0:
        return 0.0, 1.0
    found = stats.binomtest(right, count).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a mean.

    Args:
      values: at least one.
      seed: of the resamples.
    """
    return bootstrap_ratio(values, np.ones(len(values)), seed)


def bootstrap_ratio(sums: np.ndarray, counts: np.ndarray, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of sums.sum() / counts.sum(), drawn as pairs.

    Args:
      sums, counts: of each text, at least one.
      seed: of the resamples.
    """
    from scipy import stats

    sums, counts = np.asarray(sums, float), np.asarray(counts, float)
    if len(sums) == 1:  # every resample is the text itself
        value = float(sums[0] / counts[0])
        return value, value

    def ratio(sums, counts, axis):
        return sums.sum(axis) / counts.sum(axis)

    found = stats.bootstrap(
        (sums, counts),
        ratio,
        n_resamples=DRAWS,
        batch=max(1, VALUES // len(sums)),
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
