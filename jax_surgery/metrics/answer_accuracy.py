# SPDX-License-Identifier: Apache-2.0
"""Share of answers' tokens that a model finds the most likely ones."""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import clustered_share
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    value = float(scores.right.sum() / scores.tokens.sum())
    interval = clustered_share(scores.right, scores.tokens)
    return Estimate(value, interval, len(scores.tokens), probe.chance)


METRIC = Metric(
    name="answer_accuracy",
    direction="knows",
    unit="share",
    counts="texts",
    source="next-token accuracy over the learned tokens, each given those before it",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
    each=lambda scores, probe: scores.each(scores.right / scores.tokens),
    reference="the group's own chance, where it is known",
)
