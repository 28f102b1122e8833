# SPDX-License-Identifier: Apache-2.0
"""Likelihood magnitude: how much more probable per token the right answer is than the other.

CounterFact's EM, PM and NM: the mean of exp(-NLL per token) of the one less that of the
other, from -1 to 1.
"""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.compared import Compared, compare


def _estimate(found: Compared, probe: Probe) -> Estimate:
    return cases.difference(_differences(found), probe)


def _differences(found: Compared) -> np.ndarray:
    return np.exp(found.right) - np.exp(found.other)


METRIC = Metric(
    name="likelihood_magnitude",
    direction="knows",
    unit="difference of probabilities",
    counts="cases",
    source="CounterFact's EM, PM and NM (Meng et al. 2022, arXiv 2202.05262, Section 3.3)",
    observe=compare,
    estimate=_estimate,
    protocol="likelihood comparison",
    each=lambda found, probe: cases.each(_differences(found), probe),
)
