# SPDX-License-Identifier: Apache-2.0
"""Mistral (arXiv 2310.06825): Llama's layer, whose attention spans a sliding window.

A file with `layer_types` has layers with and without a window; `transformers` runs
such a file as Ministral.
"""

from jax_surgery.models.architectures.base import (
    Architecture,
    read_fields,
    read_windows,
    require,
    write_fields,
    write_windows,
)
from jax_surgery.models.config import ModelConfig

# The defaults of `transformers` for fields that are absent.
DEFAULTS = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}


def read(raw: dict) -> ModelConfig:
    require(raw, {"attention_bias": False, "hidden_act": "silu"})
    raw = DEFAULTS | raw
    return read_fields(raw, windows=read_windows(raw, raw["sliding_window"]))


def write(config: ModelConfig) -> dict:
    window, types = write_windows(config)
    found = write_fields(config, "MistralForCausalLM") | {"sliding_window": window}
    return found if len(set(types)) == 1 else found | {"layer_types": types}


MISTRAL = Architecture("mistral", read, write)
