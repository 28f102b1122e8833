# SPDX-License-Identifier: Apache-2.0
"""Weights of the three terms, and how text is retained, for all methods."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

FAR = 1.0  # nats, from which on a token's KL counts no more for each nat


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights and choices of the three terms (`config.objective`).

    Attributes:
      alpha, beta, gamma: weights of the unlearn, update and retain terms; a negative one
        turns its term round. The unlearn term falls as text is forgotten (see the
        methods), so that alpha is above 0 in every published method.
      kl_direction: "model_to_reference" is KL(p_theta || p_pre), the paper's;
        "reference_to_model" is KL(p_pre || p_theta).
      retained_positions: "all", those of prompts too; or "learned", of answers and plain
        text alone, where the KL is not diluted by a system message that all share; or
        "padded", the sum over all of them divided by the places of a batch whose texts
        are filled up to the longest, as open-unlearning's KL is.
      retain: "kl" to the model before; or "nll", CE of the retained text itself, as
        many published methods have it, which needs no reference model. RMU has its own.
      retained_tail: nats; the KL k of a token counts k + k^2 / (2 retained_tail) in the
        loss (beyond `FAR` nats it goes on in a straight line), so that few tokens that
        move far weigh more than many that move a little; 0 counts k alone.
    """

    alpha: float
    beta: float
    gamma: float
    kl_direction: Literal["model_to_reference", "reference_to_model"]
    retain: Literal["kl", "nll"]
    retained_positions: Literal["all", "learned", "padded"]
    retained_tail: float = 0.0

    def __post_init__(self):
        if not self.retained_tail >= 0:  # NaN is not
            raise ValueError(
                f"config.objective.retained_tail={self.retained_tail}; use nats above 0, "
                "or 0 to count every nat alike."
            )

    def counted(self, kl_C: jax.Array) -> jax.Array:
        """What the KL of each token counts in the loss, nats; see `retained_tail`."""
        if not self.retained_tail:
            return kl_C
        near_C = jnp.minimum(kl_C, FAR)
        beyond_C = FAR * jax.nn.relu(kl_C - FAR)
        return kl_C + (0.5 * near_C**2 + beyond_C) / self.retained_tail
