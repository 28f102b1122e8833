# SPDX-License-Identifier: Apache-2.0
"""Qwen3 (arXiv 2505.09388): queries and keys are normalised in each head before they
are rotated.

The head width does not follow from the model width. Upper layers may have a sliding
window (no published model does).
"""

from flax import nnx

from jax_surgery.models.architectures.qwen2 import DEFAULTS, Qwen
from jax_surgery.models.blocks import Attention, Block, RMSNorm
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import DECODER, row


class NormedAttention(Attention):
    """Attention whose queries and keys pass an RMS norm over the width of a head."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(c, rngs=rngs)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def queries_and_keys(self, x):
        return self.q_norm(self.q(x)), self.k_norm(self.k(x))


class NormedBlock(Block):
    """A layer with `NormedAttention`."""

    attention_class = NormedAttention


QWEN3 = Qwen(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    defaults=DEFAULTS | {"head_dim": 128},
    biases={"attention_bias": ("q", "k", "v", "o")},
    sliding=True,
    layout=(
        *DECODER,
        row("layers/attention/q_norm/scale", "self_attn.q_norm", "H", "-"),
        row("layers/attention/k_norm/scale", "self_attn.k_norm", "H", "-"),
    ),
    block=NormedBlock,
)
