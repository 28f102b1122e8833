# SPDX-License-Identifier: Apache-2.0
"""Said: share of prompts to which the model's greedy reply holds the answer."""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.continuations import continuations
from jax_surgery.metrics.replies import says
from jax_surgery.models.model import Model

NEW_TOKENS = 32


def observe(model: Model, probe: Probe) -> np.ndarray:
    """Whether each reply says the answer in its first line, bool [records].

    Raises:
      ValueError: see `continuations`.
    """
    said = continuations(model, probe, NEW_TOKENS, "said")
    lines = [text.strip().split("\n")[0] for text in said]
    pairs = zip(lines, probe.records, strict=True)
    return np.array([says(line, record.said) for line, record in pairs])


def _estimate(scores: np.ndarray, probe: Probe) -> Estimate:
    return cases.estimate(scores, probe)


METRIC = Metric(
    name="said",
    direction="knows",
    unit="share",
    counts="cases",
    source="the first line of 32 tokens, without the right beginning of the answer: Yang "
    "et al. 2025, arXiv 2502.11177, on what teacher forcing overstates",
    observe=observe,
    estimate=_estimate,
    protocol="free generation",
    each=cases.each,
)
