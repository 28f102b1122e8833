# SPDX-License-Identifier: Apache-2.0
"""Weights of the three terms, and how text is retained, for all methods."""

import dataclasses
from typing import Literal


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
    """

    alpha: float
    beta: float
    gamma: float
    kl_direction: Literal["model_to_reference", "reference_to_model"]
    retain: Literal["kl", "nll"]
    retained_positions: Literal["all", "learned", "padded"]
