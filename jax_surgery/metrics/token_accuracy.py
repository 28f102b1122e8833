# SPDX-License-Identifier: Apache-2.0
"""Token accuracy: share of an answer's tokens that are the most likely ones, mean over cases.

Each token is asked given those before it. It is the reliability, generalisation and
portability of the editing literature since ZsRE, and not a success of likelihood.
"""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.tokens import TextScores, score_texts


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    return cases.estimate(scores.right / scores.tokens, probe)


METRIC = Metric(
    name="token_accuracy",
    direction="knows",
    unit="share",
    counts="cases",
    source="ROME's evaluation on ZsRE (Meng et al. 2022, arXiv 2202.05262) and EasyEdit's "
    "(arXiv 2308.07269): mean over tokens, prompts and edited facts",
    observe=score_texts,
    estimate=_estimate,
    protocol="teacher-forced token accuracy",
    each=lambda scores, probe: cases.each(scores.right / scores.tokens, probe),
)
