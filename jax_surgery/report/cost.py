# SPDX-License-Identifier: Apache-2.0
"""What a surgery costs against the naive alternative, in FLOPs.

The naive alternative is to train on the update and retain text, from where the model
began, for as many passes as it took to learn. Every forward pass of the surgery
counts: gradients, the reference, the statistics; and the algebra of the preconditioner
and of Muon.
"""

import dataclasses

from jax_surgery.models import flops, layout
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim import newton_schulz
from jax_surgery.optim.optimizer import OptimizerChoice


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a surgery computed; tokens include padding, which is computed too."""

    config: ModelConfig
    context: int
    trained_tokens: int  # forward and backward
    reference_tokens: int  # forward, frozen model
    statistics_tokens: int  # forward, with second moments
    trainable: Trainable
    optimizer: OptimizerChoice
    steps: int
    refreshes: int  # computations of the statistics
    rank: int = 0  # of low-rank deltas; 0 where the parameters themselves move

    def surgery_flops(self) -> dict[str, float]:
        """FLOPs by item."""
        config, context, moves = self.config, self.context, self.trainable
        items = {
            "training": flops.training_flops(
                config, self.trained_tokens, context, moves, self.rank
            ),
            # The live or cached reference applies its own head inside the KL as well.
            "reference": flops.forward_flops(config, self.reference_tokens, context),
        }
        iterations = newton_schulz.STEPS
        if self.optimizer.name == "muon":
            each = flops.newton_schulz_flops(config, moves, iterations)
            items["orthogonalisation"] = self.steps * each
        if self.optimizer.preconditioned:
            layers = config.num_layers - moves.first_layer
            widths = layout.statistics(config, moves.matrices)
            each = flops.direction_flops(
                config, moves, iterations if self.optimizer.name == "orthogonal" else 0
            )
            items["statistics"] = flops.moments_flops(
                config, self.statistics_tokens, context, widths, layers
            )
            items["preconditioner"] = (
                self.refreshes * flops.cholesky_flops(widths, layers)
                + self.steps * each
            )
        return items


def compare(counts: Counts, kept_tokens: int, epochs: float) -> dict:
    """The `cost` of results.json.

    Args:
      counts: of the surgery.
      kept_tokens: of update and of all retained text, without padding.
      epochs: passes of the naive alternative; 0 where that is not known.

    Returns:
      {"surgery_flops", "items": FLOPs by item, and the counts}; where the naive
      alternative is known also {"baseline_flops", "ratio": baseline / surgery (50 says
      the surgery is 50 times cheaper), "baseline_tokens", "baseline_epochs"}.
    """
    items = counts.surgery_flops()
    surgery = sum(items.values())
    found = {
        "surgery_flops": surgery,
        "items": items,
        "trained_tokens": counts.trained_tokens,
        "reference_tokens": counts.reference_tokens,
        "statistics_tokens": counts.statistics_tokens,
    }
    if not epochs:
        return found
    baseline = flops.training_flops(
        counts.config, round(kept_tokens * epochs), counts.context
    )
    return found | {
        "baseline_flops": baseline,
        "ratio": baseline / surgery if surgery else float("inf"),
        "baseline_tokens": round(kept_tokens * epochs),
        "baseline_epochs": epochs,
    }
