# SPDX-License-Identifier: Apache-2.0
"""Sizes of published models by name, from their `config.json` files."""

import difflib

from jax_surgery.models.config import ModelConfig, RopeScaling


def _llama2(hidden, intermediate, layers, heads, kv_heads) -> ModelConfig:
    return ModelConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        max_positions=4096,
        bos_token_id=1,
        eos_token_id=2,
    )


def _llama3(hidden, intermediate, layers, heads, *, factor=0.0, tied=False):
    scaling = RopeScaling(factor, 1.0, 4.0, 8192) if factor else None
    return ModelConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=64 if hidden == 2048 else 128,
        rope_theta=500000.0,
        rope_scaling=scaling,
        tie_embeddings=tied,
        max_positions=131072 if scaling else 8192,
        bos_token_id=128000,
        eos_token_id=128001,
    )


def _mistral_7b(vocabulary, theta, window=0) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=theta,
        max_positions=32768,
        bos_token_id=1,
        eos_token_id=2,
        windows=(window,) * 32 if window else (),
        architecture="mistral",
    )


def _qwen3(hidden, intermediate, layers, heads, *, tied=False) -> ModelConfig:
    return ModelConfig(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1000000.0,
        rms_norm_eps=1e-6,
        tie_embeddings=tied,
        max_positions=40960,
        bos_token_id=151643,
        eos_token_id=151645,
        architecture="qwen3",
    )


SIZES = {
    "llama2_7b": _llama2(4096, 11008, 32, 32, 32),
    "llama2_13b": _llama2(5120, 13824, 40, 40, 40),
    "llama2_70b": _llama2(8192, 28672, 80, 64, 8),
    "llama3_8b": _llama3(4096, 14336, 32, 32),
    "llama3_70b": _llama3(8192, 28672, 80, 64),
    "llama3.1_8b": _llama3(4096, 14336, 32, 32, factor=8.0),
    "llama3.1_70b": _llama3(8192, 28672, 80, 64, factor=8.0),
    "llama3.2_1b": _llama3(2048, 8192, 16, 32, factor=32.0, tied=True),
    "llama3.2_3b": _llama3(3072, 8192, 28, 24, factor=32.0, tied=True),
    "llama3.3_70b": _llama3(8192, 28672, 80, 64, factor=8.0),
    "mistral_7b_v0.1": _mistral_7b(32000, 10000.0, window=4096),
    "mistral_7b_v0.3": _mistral_7b(32768, 1000000.0),
    "qwen3_0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3_1.7b": _qwen3(2048, 6144, 28, 16, tied=True),
    "qwen3_4b": _qwen3(2560, 9728, 36, 32, tied=True),
    "qwen3_8b": _qwen3(4096, 12288, 36, 32),
    "qwen3_14b": _qwen3(5120, 17408, 40, 40),
    "qwen3_32b": _qwen3(5120, 25600, 64, 64),
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
