# SPDX-License-Identifier: Apache-2.0
"""Down to what a model that never knew would say, token by token.

    unlearn term = mean of max(relu(margin - target), relu(log p(y) - log p(r) + log 2))

over the tokens that carry the knowledge, where the margin is the log-odds of the token y
and r the likeliest other token. The target is measured of the model itself, with noise
in the place of what the text is about (`automatic.never_knew`): a token is moved to
where a model stands that does not know the answer, and no further, because an answer
that is avoided is an answer that leaks. Nor is it the model's first choice then.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from jax_surgery.config import positive
from jax_surgery.methods.base import TargetMethod
from jax_surgery.models.logprobs import TokenLogprobs

PATH = "config.method=never_knew"


@dataclasses.dataclass(frozen=True)
class NeverKnew(TargetMethod):
    """Ends at measured targets; a run of it is `automatic` (`config.retain.budget`).

    Attributes:
      noise: of the subject's embeddings, in standard deviations of the embedding.
      draws: of the noise, over which a model's predictions are averaged.
      least: nats of KL between what the model says with and without its subject, from
        which on a token carries knowledge.
      answer: nats that a word of the answer is above its target, in log-odds, from
        which on it carries knowledge too.
      cap: of a known answer's probability, relative to the likeliest other token's.
      softness: nats; within this distance of its target a token is pulled less.
      level: nats, the target of tokens that were not measured.
    """

    noise: float = 3.0
    draws: int = 4
    least: float = 0.5
    answer: float = 1.0
    cap: float = 0.5
    softness: float = 0.5
    level: float = -8.0

    bound = "let tokens end where more noise puts them (a larger config.method=never_knew:noise)"

    def __post_init__(self):
        for name in ("noise", "least", "answer", "cap", "softness"):
            positive(getattr(self, name), f"{PATH}:{name}")
        if self.draws < 1:
            raise ValueError(f"{PATH}:draws={self.draws}; use 1 or more.")

    def unlearn(  # pyrefly: ignore[bad-override]
        self, found: TokenLogprobs, target_C: jax.Array
    ) -> jax.Array:
        """The distance of each token to its end, softened near it, nats."""
        above_C = found.margin_BT - target_C
        first_C = found.logp_BT - found.rival_logp_BT + math.log(2)
        distance_C = jax.nn.relu(jnp.maximum(above_C, first_C))
        huber_C = optax.losses.huber_loss(distance_C, delta=self.softness)
        return huber_C / self.softness
