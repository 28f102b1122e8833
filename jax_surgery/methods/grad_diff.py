# SPDX-License-Identifier: Apache-2.0
"""Gradient difference (Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121).

    mean log p_theta(y_t) over unlearn text  +  CE(theta; retain)

It is ascent and descent at once, each as far as the other lets it.
"""

import dataclasses

from jax_surgery.methods.ga import GA


@dataclasses.dataclass(frozen=True)
class GradDiff(GA):
    """Ascent, against descent on retained text."""

    retains = "nll"
