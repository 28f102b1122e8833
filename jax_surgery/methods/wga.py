# SPDX-License-Identifier: Apache-2.0
"""Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301).

    mean p_theta(y_t)^beta log p_theta(y_t)          the weight p^beta has no gradient

over learned tokens: plain ascent whose pull fades with the token's probability. The
published mean is over all tokens of a batch: `data.average=tokens`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class WGA(TokenMethod):
    """Ascent on each token, weighed by how likely it still is.

    Attributes:
      beta: exponent of the weight; 0 is plain ascent.
    """

    beta: float = 1.0

    bound = "let the ascent fade sooner (a larger beta in config.method)"

    def __post_init__(self):
        if self.beta < 0:
            raise ValueError(
                f"config.method=wga:beta={self.beta} is negative: it would pull hardest at "
                "tokens that are forgotten already; use 0 or more."
            )

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        weight_C = jax.lax.stop_gradient(jnp.exp(self.beta * found.logp_BT))
        return weight_C * found.logp_BT
