# SPDX-License-Identifier: Apache-2.0
"""The method of LLM Surgery (arXiv 2409.13054, Eq. 1): ascent on the unlearn text.

    unlearn term = - CE(theta; unlearn) = mean log p

The ascent may be bounded (`Surgery.ascent`): without a bound it drives the model to
*avoid* the unlearned answer, which reveals it and damages what is retained.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jax_surgery.config import positive
from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class Surgery(TokenMethod):
    """Ascent, which may be bounded.

    Attributes:
      ascent: bound of the ascent. "none": -CE, as in the paper. "cap": a token
        stops counting once its -log p exceeds `cap`. "margin": minimise the
        margin z_y - logsumexp_{j != y} z_j (the log-odds of the token) where it
        exceeds `margin`; unlike -CE its gradient does not vanish at tokens the
        model is sure of, which are the ones to forget. "level": minimise
        Huber's function of (margin - `margin`), from both sides: what fell below
        rises again, so that a token becomes as likely as other wrong tokens, and not
        less likely.
      cap: nats per token.
      margin: nats (log-odds), for "margin" and "level"; where an ignorant model's
        wrong candidates lie. -log(K - 1) if it finds K candidates alike, lower if
        it is sure of one (that is what forgetting by gradients leaves).
      softness: nats, for "level": within this distance the pull falls with the
        distance, beyond it is 1.
    """

    ascent: Literal["none", "cap", "margin", "level"] = "level"
    cap: float = 5.5
    margin: float = -11.0
    softness: float = 8.0

    roles = ()

    def __post_init__(self):
        rises = "-log p of a known token is near 0 and rises as it is forgotten"
        positive(self.cap, "config.method=surgery:cap", rises)
        alike = "a small one pulls every token alike"
        positive(self.softness, "config.method=surgery:softness", alike)

    @property
    def bound(self) -> str:  # pyrefly: ignore[bad-override]  # it depends on an option
        """See `Method.bound`."""
        if self.ascent != "none":
            return ""
        return "bound the ascent (config.method=surgery:ascent=level)"

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        """The bounded ascent term of each token: falls as it is forgotten."""
        if self.ascent == "margin":
            open_BT = jax.lax.stop_gradient(found.margin_BT > self.margin)
            return found.margin_BT * open_BT
        if self.ascent == "level":
            distance_BT = found.margin_BT - self.margin
            huber_BT = optax.losses.huber_loss(distance_BT, delta=self.softness)
            return huber_BT / self.softness
        if self.ascent == "cap":
            return jnp.maximum(found.logp_BT, -self.cap)
        return found.logp_BT
