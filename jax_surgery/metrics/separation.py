# SPDX-License-Identifier: Apache-2.0
"""How well a score tells two sets of texts apart: AUC, and true positives at few false ones.

Positives (members) are those with low values. An average over all thresholds, as the AUC is,
says little of an adversary who accuses few texts and is right about them: that is what the
true positive rate at a low false positive rate says (Carlini et al. 2022, arXiv 2112.03570).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from jax_surgery.metrics.intervals import DRAWS, Z95, Interval

FALSE_POSITIVE_RATES = (0.01, 0.001)
LEAST = 1e-9  # of an AUC that is looked for, beside 0 and 1


@dataclasses.dataclass(frozen=True)
class Rate:
    """A value from 0 to 1, with its 95 % interval."""

    value: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Separation:
    """What a score tells of two sets of texts.

    Attributes:
      auc: probability that a positive has the lower value, ties counted as half; 0.5 where
        the score tells nothing.
      tpr: by the false positive rate that is allowed, the share of positives below the
        threshold; that rate itself where the score tells nothing.
      positives, negatives: how many texts of each there are.
    """

    auc: Rate
    tpr: dict[float, Rate]
    positives: int
    negatives: int

    def as_json(self) -> dict[str, Any]:
        """As results.json has it."""
        shared = {"n": self.positives + self.negatives, "direction": "knows"}
        rates = {f"{rate:g}": r for rate, r in self.tpr.items()}
        return {
            "auc": dataclasses.asdict(self.auc) | shared | {"reference": 0.5},
            "tpr": {
                rate: dataclasses.asdict(found) | shared | {"reference": float(rate)}
                for rate, found in rates.items()
            },
        }


def separation(
    positives: np.ndarray, negatives: np.ndarray, seed: int = 0
) -> Separation:
    """How well positives are told from negatives.

    Args:
      positives, negatives: values of the score, of one text at least.
      seed: of the bootstrap.

    Raises:
      ValueError: a set without texts, or values that are no numbers.
    """
    positives, negatives = _checked(positives), _checked(negatives)
    return Separation(
        Rate(float(auc(positives, negatives)), _auc_interval(positives, negatives)),
        {
            rate: _true_positives(positives, negatives, rate, seed)
            for rate in FALSE_POSITIVE_RATES
        },
        len(positives),
        len(negatives),
    )


def auc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Probability that a positive has the lower value; ties count as half.

    Args:
      positives, negatives: values along the last axis; axes before it are of samples.
    """
    from scipy import stats

    ranks = stats.rankdata(np.concatenate([positives, negatives], -1), axis=-1)
    count, there = negatives.shape[-1], positives.shape[-1]
    above = ranks[..., there:].sum(-1) - count * (count + 1) / 2
    return above / (count * there)


def _placements(
    positives: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives above it, and of each negative the share of
    positives below it; ties count as half."""

    def above(values, others):
        ordered = np.sort(others)
        left, right = (np.searchsorted(ordered, values, side) for side in SIDES)
        return 1 - (left + right) / (2 * len(ordered))

    return above(positives, negatives), 1 - above(negatives, positives)


SIDES = ("left", "right")


def _auc_interval(positives: np.ndarray, negatives: np.ndarray) -> Interval:
    """95 % interval of an AUC (Newcombe 2006, Statistics in Medicine 25:559, method 5):
    the values that do not differ from it by more than their own standard error allows,
    which is honest at 0 and 1 and with few texts too."""
    from scipy.optimize import root_scalar

    found = float(auc(positives, negatives))
    count, other = len(positives), len(negatives)
    half = (count + other) / 2 - 1

    def error(value: float) -> float:
        more = 1 + half * (1 - value) / (2 - value) + half * value / (1 + value)
        return math.sqrt(value * (1 - value) * more / (count * other))

    # At 0 and 1 there is no error, which is no root that is looked for.
    low, high = 0.0, 1.0
    if found > 0:
        at_most = min(found, 1 - LEAST)
        apart = lambda value: found - value - Z95 * error(value)
        low = root_scalar(apart, bracket=(0.0, at_most)).root
    if found < 1:
        at_least = max(found, LEAST)
        apart = lambda value: value - found - Z95 * error(value)
        high = root_scalar(apart, bracket=(at_least, 1.0)).root
    return low, high


def true_positive_rate(
    positives: np.ndarray, negatives: np.ndarray, allowed: float
) -> float:
    """Share of positives that are found where at most a share of negatives is."""
    threshold = np.sort(negatives)[_most_false(len(negatives), allowed)]
    return float((positives < threshold).mean())


def _most_false(negatives: int, allowed: float) -> int:
    """False positives that are allowed: the next negative is the threshold."""
    return min(int(allowed * negatives + 1e-9), negatives - 1)


def _true_positives(
    positives: np.ndarray, negatives: np.ndarray, allowed: float, seed: int
) -> Rate:
    """A true positive rate, with the interval of the rate at the very threshold below which
    that share of all negatives lies, of which these are a sample.

    So many of the sample lie below it as a binomial says, so that it stands between two of
    them; where none need lie below it, positives below all negatives are no proof. Of the
    share of positives below it Jeffreys' distribution is drawn.
    """
    ordered, lows = np.sort(negatives), np.sort(positives)
    rng, count = np.random.default_rng(seed), len(lows)
    value = true_positive_rate(positives, negatives, allowed)
    below = rng.binomial(len(ordered), allowed, DRAWS)
    edges = np.concatenate([[-np.inf], ordered, [np.inf]])
    drawn = [
        rng.beta(found + 0.5, count - found + 0.5)
        for found in (
            np.searchsorted(lows, edges[below], "left"),
            np.searchsorted(lows, edges[below + 1], "right"),
        )
    ]
    low, high = np.percentile(drawn[0], 2.5), np.percentile(drawn[1], 97.5)
    low = 0.0 if np.mean(below == 0) > 0.025 else float(low)
    return Rate(value, (min(low, value), max(float(high), value)))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The AUC of one score less that of another, of the same texts.

    Attributes:
      value: the difference.
      interval: its 95 % interval.
      p: of no difference.
    """

    value: float
    interval: Interval
    p: float


def compared(
    positives: tuple[np.ndarray, np.ndarray], negatives: tuple[np.ndarray, np.ndarray]
) -> Difference:
    """How much better one score tells texts apart than another, in pairs (DeLong et al.
    1988, Biometrics 44:837).

    Args:
      positives, negatives: of the two scores, of the same texts in the same order.

    Raises:
      ValueError: see `separation`, or fewer than two texts in a set.
    """
    from scipy.stats import norm

    pairs = zip(positives, negatives, strict=True)
    placed = [_placements(_checked(p), _checked(n)) for p, n in pairs]
    apart = [one - other for one, other in zip(*placed, strict=True)]
    if min(map(len, apart)) < 2:
        raise ValueError(
            "one text of a kind has no spread to compare two models with; give two or "
            "more members, and two or more other texts."
        )
    value = float(apart[0].mean())
    error = math.sqrt(sum(np.var(a, ddof=1) / len(a) for a in apart))
    p = 2 * float(norm.sf(abs(value) / error)) if error else float(value == 0)
    return Difference(value, (value - Z95 * error, value + Z95 * error), p)


def curve(
    positives: np.ndarray, negatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve: false and true positive rates at all thresholds, rising, from 0 to 1."""
    levels = np.unique(np.concatenate([positives, negatives]))
    rates = (
        np.searchsorted(np.sort(values), levels, "right") / len(values)
        for values in (negatives, positives)
    )
    false, true = (np.concatenate([[0.0], rate]) for rate in rates)
    return false, true


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not len(values) or not np.isfinite(values).all():
        broken = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{broken} of {len(values)} scores are no finite numbers; membership needs "
            "texts of both kinds, and a model whose weights have not diverged."
        )
    return values
