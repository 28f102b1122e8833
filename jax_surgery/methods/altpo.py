# SPDX-License-Identifier: Apache-2.0
"""AltPO: DPO with other plausible answers (Mekala et al. 2024, arXiv 2409.13474).

The loss is that of `dpo`, and each record must name its `alternative`: an answer of the
same kind that is not true. The paper samples five of each record from the model itself;
write a record once for each.
"""

import dataclasses

from jax_surgery.methods.dpo import DPO


@dataclasses.dataclass(frozen=True)
class AltPO(DPO):
    """Prefers each record's alternative answer to the one to forget."""

    alternatives = "given"
