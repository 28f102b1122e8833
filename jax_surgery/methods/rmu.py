# SPDX-License-Identifier: Apache-2.0
"""Representation misdirection (Li et al. 2024, WMDP, arXiv 2403.03218).

    unlearn: mean ||h(x_t) - c u||^2 / D       learned tokens of the unlearn text
    retain:  mean ||h(x_t) - h_ref(x_t)||^2 / D   all positions of the retain text

h is the output of one layer of width D and u a fixed random direction of norm 1. Layers
above it are not computed. Only parameters at or below the layer move; the paper moves
the MLP outputs of three layers alone: `optimizer.matrices=down`,
`optimizer.first_layer` = layer - 2. Each token's error is averaged by its own weight;
open-unlearning's code divides each text's error by the length of every text of the batch
in turn, which weighs long texts more (`mixed=true` does that too).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.config import check_seed, positive
from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import HiddenMethod
from jax_surgery.models.documents import document_sums


@dataclasses.dataclass(frozen=True)
class RMU(HiddenMethod):
    """Steers the hidden states of a layer to noise on the text to unlearn.

    Attributes:
      layer: whose output is steered, from 0.
      steering: c, the length of the vector that they are steered to.
      seed: of the direction.
      mixed: whether lengths of texts are mixed up, as in open-unlearning.
    """

    layer: int = 7
    steering: float = 2.0
    seed: int = 0
    mixed: bool = False

    reference = ("retain",)
    bound = "steer less far (a smaller steering in config.method)"

    def __post_init__(self):
        check_seed(self.seed, "config.method=rmu:seed")
        positive(self.steering, "config.method=rmu:steering")
        if self.layer < 0:
            raise ValueError(
                f"config.method=rmu:layer={self.layer}; layers count from 0, use 0 or more."
            )

    def weights(self, batch: Batch) -> jax.Array:
        if not self.mixed:
            return super().weights(batch)
        return (batch.weights_BT != 0).astype(jnp.float32)

    def total(self, batch: Batch) -> jax.Array:
        if not self.mixed:
            return super().total(batch)
        # The mean over pairs (i, j) of error_i / n_j is sum_i error_i * sum_j 1 / n_j / b^2.
        learned_UT = self.weights(batch)
        count_UT = jnp.maximum(document_sums(learned_UT, batch.segment_ids_BT), 1.0)
        texts = (learned_UT / count_UT).sum()
        return texts**2 / (learned_UT / count_UT**2).sum()

    def unlearn(self, hidden_UTD: jax.Array) -> jax.Array:
        direction_D = jax.random.uniform(
            jax.random.key(self.seed), hidden_UTD.shape[2:]
        )
        wanted_D = self.steering * direction_D / jnp.linalg.norm(direction_D)
        return jnp.square(hidden_UTD.astype(jnp.float32) - wanted_D).mean(-1)

    def retain(self, hidden_RTD: jax.Array, reference_RTD: jax.Array) -> jax.Array:
        hidden_RTD, reference_RTD = (
            array.astype(jnp.float32) for array in (hidden_RTD, reference_RTD)
        )
        return jnp.square(hidden_RTD - reference_RTD).mean(-1)
