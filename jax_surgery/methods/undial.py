# SPDX-License-Identifier: Apache-2.0
"""Self-distillation from adjusted logits (UNDIAL, Dong et al. 2024, arXiv 2402.10052).

    mean CE(softmax(z_pre - beta onehot(y_t)), softmax(z))

over learned tokens, with z the model's logits and z_pre the frozen model's: the model is
taught what it said before, the token to forget lowered by beta. As published no text is
retained. open-unlearning takes the mean over all positions, prompts among them, and where
nothing is learned it lowers token -100 counted from the end of the vocabulary, since its
label of such positions is -100; `everywhere=true` does that too, without the padding that
packed rows do not have.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp

from jax_surgery.config import positive
from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import LogitMethod
from jax_surgery.models.documents import shifted

NO_LABEL = -100  # the label of a token that is not learned, in PyTorch


@dataclasses.dataclass(frozen=True)
class Undial(LogitMethod):
    """Teaches the frozen model's prediction, with the token to forget lowered.

    Attributes:
      beta: nats by which its logit is lowered.
      everywhere: whether the mean is over all positions, as in open-unlearning.
    """

    beta: float = 10.0
    everywhere: bool = False

    reference = ("unlearn",)
    published = types.MappingProxyType({"gamma": 0.0})

    def __post_init__(self):
        positive(self.beta, "config.method=undial:beta")

    def weights(self, batch: Batch) -> jax.Array:
        if not self.everywhere:
            return super().weights(batch)
        continues_UT = (batch.segment_ids_BT > 0) & (batch.positions_BT > 0)
        return shifted(continues_UT.astype(jnp.float32))

    def targets(self, batch: Batch, vocab: int) -> jax.Array:
        tokens_UT = super().targets(batch, vocab)
        if not self.everywhere:
            return tokens_UT
        learned_UT = shifted(batch.weights_BT) != 0
        return jnp.where(learned_UT, tokens_UT, NO_LABEL % vocab)

    def unlearn(self, logits_CV, targets_C, frozen_CV) -> jax.Array:
        is_target_CV = jnp.arange(logits_CV.shape[-1]) == targets_C[..., None]
        taught_CV = jax.nn.softmax(frozen_CV - self.beta * is_target_CV)
        return -(taught_CV * jax.nn.log_softmax(logits_CV)).sum(-1)
