# SPDX-License-Identifier: Apache-2.0
"""Share of answers' tokens that a model finds the most likely ones."""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import wilson_interval
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    right, count = int(scores.right.sum()), int(scores.tokens.sum())
    return Estimate(right / count, wilson_interval(right, count), count, probe.chance)


METRIC = Metric(
    name="answer_accuracy",
    direction="knows",
    unit="share",
    counts="tokens",
    source="next-token accuracy over the learned tokens, each given those before it",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
)
