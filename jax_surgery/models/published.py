# SPDX-License-Identifier: Apache-2.0
"""Published Llama 2 and Llama 3 architectures, 1B to 70B, by name."""

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


ARCHITECTURES = {
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
}


def architecture(name: str) -> ModelConfig:
    """The architecture of that name.

    Raises:
      ValueError: unknown; gives the nearest names.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=3)
        raise ValueError(
            f"architecture {name!r} is unknown; "
            f"{'did you mean ' + ' or '.join(near) if near else 'known'}: "
            f"{', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]
