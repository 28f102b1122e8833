# SPDX-License-Identifier: Apache-2.0
"""NPO with sharpness-aware steps (Fan et al. 2025, arXiv 2502.05374).

    min over theta of  max over |e| <= rho of NPO(theta + e)  +  retain term(theta)

to first order: the unlearn term's gradient is taken at theta + rho g / |g|, g being the
term's gradient at theta (Foret et al. 2021, arXiv 2010.01412). What is forgotten there
stays forgotten near theta, where relearning goes first. It costs a second pass over the
unlearn rows (`methods.sharpness`).
"""

import dataclasses

from jax_surgery.config import positive
from jax_surgery.methods.npo import NPO


@dataclasses.dataclass(frozen=True)
class NPOSAM(NPO):
    """NPO whose gradient is taken a step uphill, so that forgetting is flat.

    Attributes:
      rho: length of that step, over all that moves.
    """

    rho: float = 0.01

    def __post_init__(self):
        for name in ("beta", "rho"):
            positive(getattr(self, name), f"config.method=npo_sam:{name}")

    @property
    def sharpness(self) -> float:  # pyrefly: ignore[bad-override]  # it is an option
        """See `Method.sharpness`."""
        return self.rho
