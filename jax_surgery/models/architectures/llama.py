# SPDX-License-Identifier: Apache-2.0
"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783): every layer sees the whole context."""

from jax_surgery.models.architectures.base import (
    Architecture,
    read_fields,
    require,
    write_fields,
)
from jax_surgery.models.config import ModelConfig

# The defaults of `transformers` for fields that are absent.
DEFAULTS = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
SWITCHES = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}


def read(raw: dict) -> ModelConfig:
    require(raw, SWITCHES | {"hidden_act": "silu"})
    return read_fields(DEFAULTS | raw)


def write(config: ModelConfig) -> dict:
    if config.windows:
        raise ValueError(
            f"windows={config.windows}: a llama's layers see the whole context; use "
            "architecture='mistral' for the same layers with sliding windows."
        )
    return write_fields(config, "LlamaForCausalLM") | SWITCHES


LLAMA = Architecture("llama", read, write)
