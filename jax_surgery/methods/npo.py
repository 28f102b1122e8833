# SPDX-License-Identifier: Apache-2.0
"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868).

    2 / beta * mean log(1 + (p_theta(y|x) / p_ref(y|x))^beta)

over documents, with p of all learned tokens together. open-unlearning's code is the same;
MUSE's takes the logarithm's argument of raw logits, element by element, which is another
loss and is not here. As beta falls to 0 the gradient
becomes that of plain ascent.
"""

import dataclasses

import jax

from jax_surgery.config import positive
from jax_surgery.methods.base import SequenceMethod, Sequences


@dataclasses.dataclass(frozen=True)
class NPO(SequenceMethod):
    """Unlearns a document less the less likely it has become.

    Attributes:
      beta: inverse temperature, per nat.
    """

    beta: float = 0.1

    reference = ("unlearn",)
    bound = "let the term level off sooner (a larger beta in config.method)"

    def __post_init__(self):
        positive(self.beta, "config.method=npo:beta")

    def unlearn(self, sequences: Sequences) -> jax.Array:
        ratio = sequences.logp - sequences.reference_logp
        return 2 / self.beta * jax.nn.softplus(self.beta * ratio)
