# SPDX-License-Identifier: Apache-2.0
"""Means over cases: what several prompts ask of one fact counts once.

Editing benchmarks ask several prompts per edited fact, of several kinds; their published
values are means over prompts, then over kinds, then over facts. The interval is one of
facts, because prompts of a fact are right or wrong together.
"""

from collections.abc import Sequence

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Each, Estimate
from jax_surgery.metrics.intervals import bootstrap_mean, wilson_interval


def means(values: np.ndarray, cases: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Values averaged within each case, the innermost parts first.

    Args:
      values: of each prompt, [prompts].
      cases: see `Probe.cases`; () counts every prompt by itself.

    Returns:
      float64 [cases], in the order in which they come first.

    Raises:
      ValueError: values and cases are not equally many.
    """
    values = np.asarray(values, np.float64)
    if not cases:
        return values
    if len(values) != len(cases):
        raise ValueError(
            f"{len(cases)} prompts were to be measured, and {len(values)} were: some "
            "have an answer without a token of its own; leave them out."
        )
    keys = list(cases)
    while True:
        groups: dict[tuple[str, ...], list[float]] = {}
        for key, value in zip(keys, values.tolist(), strict=True):
            groups.setdefault(key, []).append(value)
        keys, values = list(groups), np.array([np.mean(g) for g in groups.values()])
        if all(len(key) == 1 for key in keys):
            return values
        keys = [key[:-1] for key in keys]


def estimate(
    values: np.ndarray, probe: Probe, reference: float | None = None
) -> Estimate:
    """The mean over cases, with a bootstrap interval over them; Wilson's where each case
    is right or wrong.

    Args:
      values: of each prompt of the probe, [prompts].
      reference: see `Estimate`.
    """
    found = means(values, probe.cases)
    if np.isin(found, (0, 1)).all():
        interval = wilson_interval(int(found.sum()), len(found))
    else:
        interval = bootstrap_mean(found)
    return Estimate(float(found.mean()), interval, len(found), reference)


def each(values: np.ndarray, probe: Probe) -> Each:
    """The value of each case, or of each prompt where a probe has no cases."""
    found = means(values, probe.cases)
    if probe.cases:
        ids = list(dict.fromkeys(case[0] for case in probe.cases))
    else:
        ids = [str(number) for number in range(len(found))]
    return Each(ids, found.tolist(), ids)


def difference(values: np.ndarray, probe: Probe) -> Estimate:
    """As `estimate`, of values that are no shares."""
    found = means(values, probe.cases)
    return Estimate(float(found.mean()), bootstrap_mean(found), len(found))
