# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals, 95 % where nothing else is said.

What is counted are texts, questions, or the people that these are about, and not tokens: what
belongs together is right or wrong together.
"""

import statistics
from collections.abc import Hashable, Sequence

import numpy as np

Z95 = statistics.NormalDist().inv_cdf(0.975)
DRAWS = 2000  # resamples of a bootstrap
VALUES = 1 << 24  # drawn at a time, at most about

Interval = tuple[float, float]


def wilson_interval(right: int, count: int, confidence: float = 0.95) -> Interval:
    """Interval of a proportion (Wilson 1927); (0, 1) where nothing was counted."""
    return wilson(right / count, count, confidence) if count else (0.0, 1.0)


def wilson(share: float, count: float, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share, of so many independent observations.

    Args:
      count: above 0, and not always a whole number (see `clustered_share`).
    """
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = (
        float(end) / (1 + z * z / count) for end in (middle - half, middle + half)
    )
    # Rounding must not leave the share itself out.
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def independent(share: float, interval: Interval, most: float) -> float:
    """How many independent observations have a Wilson interval of 95 % as wide as this one,
    up to `most`: what answers about the same people are worth together.

    Args:
      interval: of a share, such as `clustered_share` gives.
      most: as many were counted; above 0.
    """
    width = lambda count: float(np.subtract(*wilson(share, count)[::-1]))
    wanted = float(interval[1] - interval[0])
    low, high = 0.0, float(most)
    if width(high) >= wanted:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if width(middle) > wanted else (low, middle)
    return high


def clustered_share(right: np.ndarray, counts: np.ndarray) -> Interval:
    """Interval of the share right.sum() / counts.sum(), whose clusters are drawn, not what
    is counted in them: Wilson's, of the number of independent observations that would have
    the variance of the ratio between clusters (Korn and Graubard 1998, Survey Methodology
    24:193). Of clusters of one it is Wilson's own.

    Args:
      right, counts: of each cluster, such as a text's tokens, [clusters]; counts above 0.
    """
    right, counts = np.asarray(right, float), np.asarray(counts, float)
    total, clusters = float(counts.sum()), len(counts)
    share = float(right.sum() / total)
    variance = float(np.square(right - share * counts).sum()) / total**2
    if clusters == 1 or variance == 0:
        # Clusters that are all alike say as much as one observation each.
        return wilson(share, clusters)
    count = share * (1 - share) / variance
    if total > clusters:
        from scipy.stats import t  # takes half a second to import

        wider = float(t.ppf(0.975, clusters - 1) / t.ppf(0.975, total - 1))
        count /= wider**2
    return wilson(share, min(count, total))


def by_cluster(
    values: np.ndarray, clusters: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the values of each cluster, in the order of their names'
    first use."""
    number = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    place = np.array([number[name] for name in clusters])
    return np.bincount(place, np.asarray(values, float)), np.bincount(place)


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
    if not np.isfinite(sums).all():  # which `Metric.measured` refuses
        return float("nan"), float("nan")
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
