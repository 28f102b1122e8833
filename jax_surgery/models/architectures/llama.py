# SPDX-License-Identifier: Apache-2.0
"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783): every layer sees the whole context."""

from jax_surgery.models.architectures.base import Architecture

LLAMA = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    biases={
        "attention_bias": ("q", "k", "v", "o"),
        "mlp_bias": ("gate", "up", "down"),
    },
    # Once the number of parts in which products were computed.
    ignored={"pretraining_tp": 1},
)
