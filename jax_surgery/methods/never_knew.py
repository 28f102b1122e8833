# SPDX-License-Identifier: Apache-2.0
"""To where a model that never knew would stand, token by token.

    unlearn term = mean of h(max(e, f))           where e or f is above 0
                           h(below max(e, f))     else
    e = log p(y) - a - CHANCE s
    f = log p(y) - log p(r) + log 2

over the tokens y that carry the knowledge, with h the Huber loss and r the likeliest other
token. A few other answers are drawn that a model that never knew might give: from what the
model itself says with noise in the place of what the text is about
(`automatic.never_knew`). a is the level at which those stand that such a model finds as
likely as y, and s their standard deviation about it (`models.compared`). To a model that
never knew the true answer is one like the others. So a token ends among them, and no
further: an answer that is avoided is an answer that leaks. Nor is it the model's first
choice there.

Answers that all stand at the level of others would be above three of them in one of eight
cases, at `CHANCE` standard deviations in one of four, as an answer that nobody knows is.
Tokens without such others end where the log-odds of y are `level`, and are not drawn up.
"""

import dataclasses
import math
import statistics

import jax
import jax.numpy as jnp
import optax

from jax_surgery.config import positive
from jax_surgery.methods.base import TargetMethod
from jax_surgery.models.compared import Compared
from jax_surgery.models.logprobs import TokenLogprobs

PATH = "config.method=never_knew"
# Deviations above the mean at which a value is above three normal ones in a quarter of cases.
CHANCE = statistics.NormalDist().inv_cdf(0.25 ** (1 / 3))


@dataclasses.dataclass(frozen=True)
class NeverKnew(TargetMethod):
    """Ends among other answers; a run of it is `automatic` (`config.retain.budget`).

    Attributes:
      noise: of the subject's embeddings, in standard deviations of the embedding.
      draws: of the noise, over which a model's predictions are averaged.
      least: nats of KL between what the model says with and without its subject, from
        which on a token carries knowledge.
      answer: nats that a word of the answer is above its target, in log-odds, from
        which on it carries knowledge too.
      cap: of a known answer's probability, relative to the likeliest other token's.
      softness: nats; within this distance of its end a token is pulled less.
      below: weight of the distance of a token that lies below its end; 0 leaves it there.
      level: nats, the log-odds at which tokens end that were not measured.
    """

    noise: float = 3.0
    draws: int = 4
    least: float = 0.5
    answer: float = 1.0
    cap: float = 0.5
    softness: float = 0.5
    below: float = 1.0
    level: float = -8.0

    bound = "let tokens end where more noise puts them (a larger config.method=never_knew:noise)"

    def __post_init__(self):
        for name in ("noise", "least", "answer", "cap", "softness"):
            positive(getattr(self, name), f"{PATH}:{name}")
        if not self.below >= 0:  # NaN is not
            raise ValueError(f"{PATH}:below={self.below}; use 0 or more.")
        if self.draws < 1:
            raise ValueError(f"{PATH}:draws={self.draws}; use 1 or more.")

    def unlearn(  # pyrefly: ignore[bad-override]
        self,
        found: TokenLogprobs,
        target_C: jax.Array,
        others: Compared | None = None,
    ) -> jax.Array:
        """The distance of each token to its end, softened near it, nats."""
        first_C = found.logp_BT - found.rival_logp_BT + math.log(2)
        if others is None:
            distance_C = jax.nn.relu(jnp.maximum(found.margin_BT - target_C, first_C))
        else:
            beyond_C = others.gap_C - CHANCE * others.spread_C
            far_C = jnp.maximum(beyond_C, first_C)
            distance_C = jnp.where(far_C > 0, far_C, self.below * far_C)
        huber_C = optax.losses.huber_loss(distance_C, delta=self.softness)
        return huber_C / self.softness
