# SPDX-License-Identifier: Apache-2.0
"""IdkPO: DPO with refusals as alternatives (Maini et al. 2024, TOFU, arXiv 2401.06121).

The loss is that of `dpo`. Each answer to forget gets one of the packaged refusals, drawn
by `config.seed`, whatever alternative its record names. open-unlearning draws another one
of 100 at each visit.
"""

import dataclasses

from jax_surgery.methods.dpo import DPO


@dataclasses.dataclass(frozen=True)
class IdkPO(DPO):
    """Prefers a refusal to the answer to forget."""

    alternatives = "refusals"
