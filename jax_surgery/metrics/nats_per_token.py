# SPDX-License-Identifier: Apache-2.0
"""Nats per token: the mean negative log-likelihood of the learned tokens."""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import bootstrap_ratio
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    del probe  # its chance is a share
    count = int(scores.tokens.sum())
    interval = bootstrap_ratio(-scores.logp, scores.tokens)
    value = -float(scores.logp.sum() / count)
    return Estimate(value, interval, len(scores.tokens))


METRIC = Metric(
    name="nats_per_token",
    direction="ignorant",
    unit="nats per token",
    counts="texts",
    source="cross entropy of the text, the logarithm of its perplexity",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced likelihood",
    each=lambda scores, probe: scores.each(-scores.logp / scores.tokens),
)
