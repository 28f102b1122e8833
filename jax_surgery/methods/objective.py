# SPDX-License-Identifier: Apache-2.0
"""Weights of the three terms, and how text is retained, for all methods."""

import dataclasses
from typing import Literal

from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.base import KL_DIRECTIONS, RETAIN_TERMS, check_choice


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights and choices of the three terms (`config.objective`).

    Attributes:
      alpha, beta, gamma: weights of the unlearn, update and retain terms.
      kl_direction: "model_to_reference" is KL(p_theta || p_pre), the paper's;
        "reference_to_model" is KL(p_pre || p_theta).
      ascent, cap, margin, softness: options of the method "surgery" (see
        `ascent.Surgery`); other methods do not read them.
      retain: "kl" to the model before; or "nll", CE of the retained text itself, as
        many published methods have it, which needs no reference model. RMU has its own.
    """

    alpha: float
    beta: float
    gamma: float
    kl_direction: Literal["model_to_reference", "reference_to_model"]
    ascent: Literal["none", "cap", "margin", "level"]
    cap: float
    margin: float
    softness: float
    retain: Literal["kl", "nll"]

    def __post_init__(self):
        check_choice("objective.kl_direction", self.kl_direction, KL_DIRECTIONS)
        check_choice("objective.retain", self.retain, RETAIN_TERMS)
        for name in ("alpha", "beta", "gamma"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)} is negative; weights are "
                    "0 or more (the unlearn term's sign is part of the objective)."
                )
        self.surgery()  # which checks its options

    def surgery(self) -> Surgery:
        """The method "surgery" with these options."""
        return Surgery(self.ascent, self.cap, self.margin, self.softness)
