# SPDX-License-Identifier: Apache-2.0
"""Saturation and importance (SatImp, Yang et al. 2025, arXiv 2505.11953).

    mean p^beta1 (1 - p)^beta2 log p,  p = p_theta(y_t)     the weights have no gradient

over learned tokens: ascent on tokens that are neither forgotten (p^beta1) nor certain
((1 - p)^beta2). The published mean is over all tokens of a batch: `data.average=tokens`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.config import positive
from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class SatImp(TokenMethod):
    """Ascent on tokens that are known and matter, weighed by both.

    Attributes:
      beta1: exponent of p, how known a token still is.
      beta2: exponent of 1 - p, how much it matters.
      weight: of the term, beside `objective.alpha`: open-unlearning's code has 0.1 against
        a retain term of weight 1, while its page of the method says the reverse (10).
    """

    beta1: float = 5.0
    beta2: float = 1.0
    weight: float = 0.1

    bound = "let the ascent fade sooner (a larger beta1 in config.method)"

    def __post_init__(self):
        positive(self.weight, "config.method=satimp:weight")
        for name in ("beta1", "beta2"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"config.method=satimp:{name}={getattr(self, name)} is negative; use "
                    "0 (no such weight) or more."
                )

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        p_C = jax.lax.stop_gradient(jnp.exp(found.logp_BT))
        weight_C = p_C**self.beta1 * (1 - p_C) ** self.beta2
        return self.weight * weight_C * found.logp_BT
