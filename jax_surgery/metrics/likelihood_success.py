# SPDX-License-Identifier: Apache-2.0
"""Likelihood success: share of prompts whose right answer is likelier per token than the other.

CounterFact's ES, PS and NS, where a tie is no success.
"""

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.compared import Compared, compare


def _estimate(found: Compared, probe: Probe) -> Estimate:
    return cases.estimate(found.right > found.other, probe, probe.chance)


METRIC = Metric(
    name="likelihood_success",
    direction="knows",
    unit="share",
    counts="cases",
    source="CounterFact's ES, PS and NS (Meng et al. 2022, arXiv 2202.05262, Section 3.3): "
    "mean negative log-likelihoods per token compared",
    observe=compare,
    estimate=_estimate,
    protocol="likelihood comparison",
    each=lambda found, probe: cases.each(found.right > found.other, probe),
    reference="1 / options",
)
