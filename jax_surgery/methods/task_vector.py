# SPDX-License-Identifier: Apache-2.0
"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): fine-tune, then subtract.

    theta_new = theta - scale (theta_ft - theta)

with theta_ft fine-tuned by cross-entropy on the text to unlearn alone. The steps of the run
are those of the fine-tuning; what is asked during the run, and what it ends with, is
theta_new. What the model learns in these steps is subtracted, so text to update needs a
stage of its own: "task_vector@unlearn;surgery@update".
"""

import dataclasses

import jax

from jax_surgery.config import positive
from jax_surgery.methods.base import TokenMethod
from jax_surgery.models.logprobs import TokenLogprobs


@dataclasses.dataclass(frozen=True)
class TaskVector(TokenMethod):
    """Learns the text to forget, and takes off what that changed.

    Attributes:
      scale: of what is subtracted, relative to what the fine-tuning changed.
    """

    scale: float = 1.0

    retains = "none"
    bound = "subtract less (a smaller scale in config.method)"

    def __post_init__(self):
        positive(self.scale, "config.method=task_vector:scale")

    @property
    def applied(self) -> float:  # pyrefly: ignore[bad-override]  # it is an option
        """See `Method.applied`."""
        return -self.scale

    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        return -found.logp_BT
