# SPDX-License-Identifier: Apache-2.0
"""Gradient ascent (Jang et al. 2023, Knowledge Unlearning, arXiv 2210.01504).

    mean log p_theta(y_t)

over learned tokens, and no retain term: nothing bounds it, and nothing holds the rest.
The published mean is over all tokens of a batch: `data.average=tokens`.
"""

import dataclasses

import jax

from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class GA(TokenMethod):
    """Ascent alone: no text is retained."""

    retains = "none"

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        return found.logp_BT
