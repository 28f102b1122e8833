# SPDX-License-Identifier: Apache-2.0
"""Mistral (arXiv 2310.06825): Llama's layer, whose attention spans a sliding window.

A file with `layer_types` has layers with and without a window; `transformers` runs
such a file as Ministral.
"""

from jax_surgery.models.architectures.base import Architecture

MISTRAL = Architecture(
    model_type="mistral",
    class_name="MistralForCausalLM",
    defaults={
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    constants={"attention_bias": False},
    sliding=True,
)
