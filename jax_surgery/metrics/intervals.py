# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals."""

import math

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); (0, 1) where nothing was asked."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = right / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z95
        / (1 + z2 / count)
        * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_mean(
    values: np.ndarray, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a mean; seeded."""
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_ratio(
    sums: np.ndarray, counts: np.ndarray, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of sums.sum() / counts.sum(); seeded."""
    sums, counts = np.asarray(sums, float), np.asarray(counts, float)
    picks = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    ratios = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
