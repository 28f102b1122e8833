# SPDX-License-Identifier: Apache-2.0
"""DPO for unlearning: an alternative answer is preferred to the answer to forget.

    - 2 / beta * mean log sigmoid(beta [log p/p_ref (alternative) - log p/p_ref (forget)])

over pairs (Rafailov et al. 2023, arXiv 2305.18290). With refusals alone as alternatives it
is `idkpo`, with other answers alone `altpo`. The factor 2 / beta, which makes it comparable with NPO, is
open-unlearning's.
"""

import dataclasses

import jax

from jax_surgery.config import positive
from jax_surgery.methods.base import PairMethod, Sequences


@dataclasses.dataclass(frozen=True)
class DPO(PairMethod):
    """Prefers each record's alternative, or a refusal, to the answer to forget.

    Attributes:
      beta: inverse temperature, per nat.
    """

    beta: float = 0.1

    reference = ("unlearn",)
    bound = "let the term level off sooner (a larger beta in config.method)"

    def __post_init__(self):
        name = type(self).__name__.lower()
        positive(self.beta, f"config.method={name}:beta")

    def unlearn(self, forget: Sequences, alternative: Sequences) -> jax.Array:
        lost = forget.logp - forget.reference_logp
        won = alternative.logp - alternative.reference_logp
        return 2 / self.beta * jax.nn.softplus(self.beta * (lost - won))
