# SPDX-License-Identifier: Apache-2.0
"""Likelihood: the geometric mean of the learned tokens' probabilities."""

import math

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import bootstrap_ratio
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    count = int(scores.tokens.sum())
    # Of the very value: a mean over texts lies above a geometric one.
    low, high = bootstrap_ratio(scores.logp, scores.tokens)
    value = math.exp(scores.logp.sum() / count)
    interval = math.exp(low), math.exp(high)
    return Estimate(value, interval, len(scores.tokens), probe.chance)


METRIC = Metric(
    name="likelihood",
    direction="knows",
    unit="share",
    counts="texts",
    source="1 / perplexity, exp(-nats per token), over all learned tokens",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced likelihood",
    each=lambda scores, probe: scores.each(np.exp(scores.logp / scores.tokens)),
    reference="the group's own chance, where it is known",
)
