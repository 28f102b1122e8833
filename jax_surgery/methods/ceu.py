# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy unlearning (CE-U, Yang 2025, arXiv 2503.01224).

    mean CE(softmax(z with z_y = -inf), softmax(z))      the target has no gradient

over learned tokens of logits z: the model is taught what it would say if it could not say
the token. As published no text is retained.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import LogitMethod
from jax_surgery.models.documents import shifted, sums_so_far


@dataclasses.dataclass(frozen=True)
class CEU(LogitMethod):
    """Teaches the model's own prediction without the token to forget.

    Attributes:
      skip: learned tokens at the beginning of each text that are left alone, 1 as
        published: the first word of an answer is also the first of others.
    """

    skip: int = 1

    published = types.MappingProxyType({"gamma": 0.0})

    def __post_init__(self):
        if self.skip < 0:
            raise ValueError(
                f"config.method=ceu:skip={self.skip}; use 0 or more tokens."
            )

    def weights(self, batch: Batch) -> jax.Array:
        learned_UT = (batch.weights_BT != 0).astype(jnp.float32)
        so_far_UT = sums_so_far(learned_UT, batch.segment_ids_BT)
        return shifted(jnp.where(so_far_UT > self.skip, batch.weights_BT, 0))

    def unlearn(self, logits_CV, targets_C, frozen_CV) -> jax.Array:
        del frozen_CV
        is_target_CV = jnp.arange(logits_CV.shape[-1]) == targets_C[..., None]
        others_CV = jnp.where(is_target_CV, -jnp.inf, jax.lax.stop_gradient(logits_CV))
        return -(jax.nn.softmax(others_CV) * jax.nn.log_softmax(logits_CV)).sum(-1)
