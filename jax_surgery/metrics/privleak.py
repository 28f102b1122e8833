# SPDX-License-Identifier: Apache-2.0
"""MUSE's PrivLeak: how far the AUC lies from that of a model that never read the text, %.

100 (AUC - AUC_retrain) / AUC_retrain: below 0 the text is remembered, above 0 it was
pushed away.
"""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import muse_membership
from jax_surgery.metrics.base import Comparison, Estimate
from jax_surgery.metrics.muse_membership import Membership


def _compare(found: Membership, never: Membership, probe: Probe) -> Estimate:
    reference = muse_membership.auc(never)
    if reference <= 0:
        raise ValueError(
            f"the reference model's AUC on {probe.group!r} is {reference}, so privleak is "
            "not defined: it tells the texts apart as one does that has read them. Give "
            "config.reference_model a model that never read them."
        )
    value = 100 * (muse_membership.auc(found) - reference) / reference
    own, others = muse_membership.resampled([found, never])
    defined = others > 0  # of a few texts some resamples have none that is likelier
    changes = 100 * (own - others)[defined] / others[defined]
    low, high = np.percentile(changes, (2.5, 97.5))
    count = len(found.read) + len(found.others)
    return Estimate(value, (float(low), float(high)), count, 0.0)


COMPARISON = Comparison(
    name="privleak",
    against="never knew",
    direction="neither",
    unit="%",
    counts="texts",
    source="MUSE, arXiv 2407.06460",
    protocol="teacher-forced likelihood",
    observe=muse_membership.observe,
    compare=_compare,
)
