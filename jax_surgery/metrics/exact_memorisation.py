# SPDX-License-Identifier: Apache-2.0
"""Exact memorisation: share of a text's tokens that are the most likely ones.

The value is that of `answer_accuracy`; the interval is of texts that are drawn, since
the tokens of a text that is known by heart are right or wrong together.
"""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import bootstrap_ratio
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    count = int(scores.tokens.sum())
    interval = bootstrap_ratio(scores.right, scores.tokens)
    return Estimate(float(scores.right.sum() / count), interval, count, probe.chance)


METRIC = Metric(
    name="exact_memorisation",
    direction="knows",
    unit="share",
    counts="tokens",
    source="Tirumala et al. 2022, arXiv 2205.10770, Definition 1",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
)
