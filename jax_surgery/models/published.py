# SPDX-License-Identifier: Apache-2.0
"""Sizes of published models by name, from their `config.json` files."""

import dataclasses
import difflib

from jax_surgery.models.config import ModelConfig, RopeScaling

LLAMA2 = ModelConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    max_positions=4096,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = dataclasses.replace(
    LLAMA2,
    vocab_size=128256,
    intermediate_size=14336,
    num_kv_heads=8,
    rope_theta=500000.0,
    max_positions=8192,
    bos_token_id=128000,
    eos_token_id=128001,
)
LLAMA3_1 = dataclasses.replace(
    LLAMA3, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), max_positions=131072
)
LLAMA3_2 = dataclasses.replace(
    LLAMA3_1, rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), tie_embeddings=True
)
MISTRAL = dataclasses.replace(
    LLAMA2,
    intermediate_size=14336,
    num_kv_heads=8,
    max_positions=32768,
    architecture="mistral",
)
QWEN3 = dataclasses.replace(
    LLAMA3,
    vocab_size=151936,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
    max_positions=40960,
    bos_token_id=151643,
    eos_token_id=151645,
    architecture="qwen3",
)


def _sized(family: ModelConfig, hidden, intermediate, layers, heads, **others):
    return dataclasses.replace(
        family,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        **others,
    )


SIZES = {
    "llama2_7b": LLAMA2,
    "llama2_13b": _sized(LLAMA2, 5120, 13824, 40, 40, num_kv_heads=40),
    "llama2_70b": _sized(LLAMA2, 8192, 28672, 80, 64, num_kv_heads=8),
    "llama3_8b": LLAMA3,
    "llama3_70b": _sized(LLAMA3, 8192, 28672, 80, 64),
    "llama3.1_8b": LLAMA3_1,
    "llama3.1_70b": _sized(LLAMA3_1, 8192, 28672, 80, 64),
    "llama3.2_1b": _sized(LLAMA3_2, 2048, 8192, 16, 32, head_dim=64),
    "llama3.2_3b": _sized(LLAMA3_2, 3072, 8192, 28, 24),
    "llama3.3_70b": _sized(LLAMA3_1, 8192, 28672, 80, 64),
    "mistral_7b_v0.1": dataclasses.replace(MISTRAL, windows=(4096,) * 32),
    "mistral_7b_v0.3": dataclasses.replace(
        MISTRAL, vocab_size=32768, rope_theta=1000000.0
    ),
    "qwen3_0.6b": _sized(QWEN3, 1024, 3072, 28, 16, tie_embeddings=True),
    "qwen3_1.7b": _sized(QWEN3, 2048, 6144, 28, 16, tie_embeddings=True),
    "qwen3_4b": _sized(QWEN3, 2560, 9728, 36, 32, tie_embeddings=True),
    "qwen3_8b": _sized(QWEN3, 4096, 12288, 36, 32),
    "qwen3_14b": _sized(QWEN3, 5120, 17408, 40, 40),
    "qwen3_32b": _sized(QWEN3, 5120, 25600, 64, 64),
}


def sizes(name: str) -> ModelConfig:
    """The config of the published model of that name.

    Raises:
      ValueError: unknown; gives the nearest names.
    """
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=3)
        raise ValueError(
            f"architecture {name!r} is unknown; "
            f"{'did you mean ' + ' or '.join(near) if near else 'known'}: "
            f"{', '.join(SIZES)}."
        )
    return SIZES[name]
