# SPDX-License-Identifier: Apache-2.0
"""Share of texts of which every learned token is the most likely one."""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import wilson_interval
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    del probe  # its chance is that of a token
    right, count = int((scores.right == scores.tokens).sum()), len(scores.tokens)
    return Estimate(right / count, wilson_interval(right, count), count)


METRIC = Metric(
    name="exact_match",
    direction="knows",
    unit="share",
    counts="texts",
    source="a text counts where greedy decoding from its prompt gives it to the token",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
    each=lambda scores, probe: scores.each(scores.right == scores.tokens),
)
