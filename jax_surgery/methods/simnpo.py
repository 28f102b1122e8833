# SPDX-License-Identifier: Apache-2.0
"""SimNPO (Fan et al. 2024, arXiv 2410.07163): NPO by length, without reference.

    - 2 / beta * mean log sigmoid(-beta / |y| log p_theta(y|x) - gamma)

over documents of |y| learned tokens. The paper's margin gamma is beta * delta here, as
in open-unlearning.
"""

import dataclasses

import jax

from jax_surgery.config import positive
from jax_surgery.methods.base import SequenceMethod, Sequences


@dataclasses.dataclass(frozen=True)
class SimNPO(SequenceMethod):
    """Unlearns a document less the larger its loss has become.

    Attributes:
      beta: inverse temperature, per nat per token.
      delta: nats per token that the loss must exceed to count as forgotten.
      weight: of the term, beside `objective.alpha`: published with 0.125 against a
        retain term of weight 1.
    """

    beta: float = 4.5
    delta: float = 0.0
    weight: float = 0.125

    bound = "let the term level off sooner (a larger beta in config.method)"

    def __post_init__(self):
        positive(self.beta, "config.method=simnpo:beta")
        positive(self.weight, "config.method=simnpo:weight")

    def unlearn(self, sequences: Sequences) -> jax.Array:
        mean_logp = sequences.logp / sequences.tokens
        term = jax.nn.softplus(self.beta * (mean_logp + self.delta))
        return self.weight * 2 / self.beta * term
