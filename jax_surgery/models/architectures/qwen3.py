# SPDX-License-Identifier: Apache-2.0
"""Qwen3 (arXiv 2505.09388): queries and keys are normalised in each head before they
are rotated.

The head width does not follow from the model width. Upper layers may have a sliding
window (no published model does).
"""

from jax_surgery.models.architectures.qwen2 import DEFAULTS, Qwen
from jax_surgery.models.blocks import Block, NormedAttention
from jax_surgery.models.layout import DECODER, QUERY_KEY_NORMS


class NormedBlock(Block):
    """A layer with `NormedAttention`."""

    attention_class = NormedAttention


QWEN3 = Qwen(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    defaults=DEFAULTS | {"head_dim": 128},
    biases={"attention_bias": ("q", "k", "v", "o")},
    sliding=True,
    layout=(*DECODER, *QUERY_KEY_NORMS),
    block=NormedBlock,
)
