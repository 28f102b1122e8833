# SPDX-License-Identifier: Apache-2.0
"""Exact memorisation: share of a text's tokens that are the most likely ones.

The value is that of `answer_accuracy`, under the name that papers on memorisation use.
"""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import clustered_share
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    value = float(scores.right.sum() / scores.tokens.sum())
    interval = clustered_share(scores.right, scores.tokens)
    return Estimate(value, interval, len(scores.tokens), probe.chance)


METRIC = Metric(
    name="exact_memorisation",
    direction="knows",
    unit="share",
    counts="texts",
    source="Tirumala et al. 2022, arXiv 2205.10770, Definition 1",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
    each=lambda scores, probe: scores.each(scores.right / scores.tokens),
    reference="the group's own chance, where it is known",
)
