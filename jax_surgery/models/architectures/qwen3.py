# SPDX-License-Identifier: Apache-2.0
"""Qwen3 (arXiv 2505.09388): queries and keys are normalised in each head before they
are rotated.

The head width does not follow from the model width. Upper layers may have a sliding
window (no published model does).
"""

from flax import nnx

from jax_surgery.models.architectures.base import (
    SLIDING,
    Architecture,
    read_fields,
    read_windows,
    require,
    write_fields,
    write_windows,
)
from jax_surgery.models.blocks import Attention, Block, RMSNorm
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import DECODER, layer_row

# The defaults of `transformers` for fields that are absent.
DEFAULTS = {
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "use_sliding_window": False,
}
LAYOUT = (
    *DECODER,
    layer_row("attention/q_norm/scale", "self_attn.q_norm", "H", "-"),
    layer_row("attention/k_norm/scale", "self_attn.k_norm", "H", "-"),
)


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


def read(raw: dict) -> ModelConfig:
    require(raw, {"attention_bias": False, "hidden_act": "silu"})
    raw = DEFAULTS | raw
    window = raw["sliding_window"] if raw["use_sliding_window"] else None
    windows = read_windows(raw, window, raw["max_window_layers"])
    return read_fields(raw, windows=windows)


def write(config: ModelConfig) -> dict:
    window, types = write_windows(config)
    first = types.index(SLIDING) if window else config.num_layers
    return write_fields(config, "Qwen3ForCausalLM") | {
        "attention_bias": False,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": first,
        "layer_types": types,
    }


QWEN3 = Architecture("qwen3", read, write, LAYOUT, NormedBlock)
