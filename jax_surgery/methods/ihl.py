# SPDX-License-Identifier: Apache-2.0
"""Inverted hinge loss of LoKU (Cha et al. 2025, arXiv 2408.06621).

    mean 1 + p_theta(y_t) - max_{v != y_t} p_theta(v)

over learned tokens: the token becomes less likely than the runner-up, which takes its place. The
term lies in [0, 2] and is a difference of probabilities, not in nats; its gradient is
bounded. The paper's outer max(0, .) never acts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class IHL(TokenMethod):
    """Lets the likeliest other token overtake each token to forget."""

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        return 1 + jnp.exp(found.logp_BT) - jnp.exp(found.rival_logp_BT)
