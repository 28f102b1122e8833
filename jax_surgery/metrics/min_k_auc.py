# SPDX-License-Identifier: Apache-2.0
"""Min-40% AUC: share of pairs in which unread text has likelier worst tokens than the text.

0.5 says that nothing tells the two apart, 0 that the text was read beyond doubt, and a value
far above 0.5 that it was pushed away, which an attacker sees as well.
"""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import muse_membership
from jax_surgery.metrics.base import Estimate, Metric


def _estimate(found: muse_membership.Membership, probe: Probe) -> Estimate:
    del probe
    low, high = np.percentile(muse_membership.resampled([found])[0], (2.5, 97.5))
    value, count = muse_membership.auc(found), len(found.read) + len(found.others)
    return Estimate(value, (float(low), float(high)), count, 0.5)


METRIC = Metric(
    name="min_k_auc",
    direction="ignorant",
    unit="share",
    counts="texts",
    source="Min-K% Prob (Shi et al. 2024, arXiv 2310.16789) of 40 % of a text's tokens, as "
    "MUSE takes it (arXiv 2407.06460)",
    observe=muse_membership.observe,
    estimate=_estimate,
    protocol="teacher-forced likelihood",
    reference="0.5, of texts that cannot be told apart",
)
