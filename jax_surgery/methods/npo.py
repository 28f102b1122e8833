# SPDX-License-Identifier: Apache-2.0
"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868).

    2 / beta * mean log(1 + (p_theta(y|x) / p_ref(y|x))^beta)

over documents, with p of all learned tokens together. As beta falls to 0 the gradient
becomes that of plain ascent.
"""

import dataclasses

import jax

from jax_surgery.methods.base import Needs, SequenceMethod, Sequences, check_positive


@dataclasses.dataclass(frozen=True)
class NPO(SequenceMethod):
    """Unlearns a document less the less likely it has become.

    Attributes:
      beta: inverse temperature, per nat.
    """

    beta: float = 0.1

    needs = Needs(reference={"unlearn": "logp"})

    def __post_init__(self):
        check_positive(self, "beta")

    @property
    def bound(self) -> str:
        """See `Method.bound`."""
        return "let the term level off sooner (a larger beta in config.method)"

    def unlearn(self, sequences: Sequences) -> jax.Array:
        ratio = sequences.logp - sequences.reference_logp
        return 2 / self.beta * jax.nn.softplus(self.beta * ratio)
