# SPDX-License-Identifier: Apache-2.0
"""Qwen3 (arXiv 2505.09388): queries and keys are normalised in each head before they
are rotated.

The head width does not follow from the model width. Upper layers may have a sliding
window (no published model does).
"""

from flax import nnx

from jax_surgery.models.architectures.base import (
    FULL,
    SLIDING,
    Architecture,
    layer_types,
)
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


class Qwen3(Architecture):
    """Its files say whether the window is used, and from which layer on."""

    def read(self, raw: dict) -> ModelConfig:
        raw = self.defaults | raw
        if not raw["use_sliding_window"]:
            raw["sliding_window"] = None
        if raw["sliding_window"] and raw.get("layer_types") is None:
            layers, full = raw.get("num_hidden_layers", 0), raw["max_window_layers"]
            raw["layer_types"] = [FULL if i < full else SLIDING for i in range(layers)]
        return super().read(raw)

    def write(self, config: ModelConfig) -> dict:
        types = layer_types(config)
        return super().write(config) | {
            "use_sliding_window": SLIDING in types,
            "max_window_layers": [*types, SLIDING].index(SLIDING),
            "layer_types": types,
        }


QWEN3 = Qwen3(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    defaults={
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    constants={"attention_bias": False},
    sliding=True,
    layout=(
        *DECODER,
        row("layers/attention/q_norm/scale", "self_attn.q_norm", "H", "-"),
        row("layers/attention/k_norm/scale", "self_attn.k_norm", "H", "-"),
    ),
    block=NormedBlock,
)
