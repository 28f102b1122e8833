# SPDX-License-Identifier: Apache-2.0
"""MUSE's KnowMem: ROUGE-L F1 of greedy answers, cut where the next question would begin."""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.continuations import continuations, cut
from jax_surgery.metrics.rouge_l import f_measures
from jax_surgery.models.model import Model

NEW_TOKENS = 32
STOPS = ("\n\n", "\nQuestion", "Question:")


def observe(model: Model, probe: Probe) -> np.ndarray:
    """ROUGE-L F1 of each answer, float64 [records].

    Raises:
      ValueError: see `continuations`.
    """
    said = continuations(model, probe, NEW_TOKENS, "knowmem")
    wanted = [record.said for record in probe.records]
    return f_measures(wanted, [cut(text, STOPS) for text in said])


def _estimate(scores: np.ndarray, probe: Probe) -> Estimate:
    return cases.estimate(scores, probe)


METRIC = Metric(
    name="knowmem",
    direction="knows",
    unit="share",
    counts="texts",
    source="MUSE, arXiv 2407.06460, as the authors' code computes it: 32 new "
    "tokens, words not stemmed; of questions about retained text it is MUSE's utility",
    observe=observe,
    estimate=_estimate,
    protocol="free generation",
    each=cases.each,
)
