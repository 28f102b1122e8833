# SPDX-License-Identifier: Apache-2.0
"""Sizes of published models by name, from their `config.json` files."""

import dataclasses
import difflib

from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.models.rope import LinearScaling

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


LLAMA1 = dataclasses.replace(LLAMA2, max_positions=2048, rms_norm_eps=1e-6)
SMOLLM2 = dataclasses.replace(
    LLAMA2,
    vocab_size=49152,
    rope_theta=100000.0,
    max_positions=8192,
    tie_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
)
SMOLLM = dataclasses.replace(SMOLLM2, rope_theta=10000.0, max_positions=2048)
QWEN2 = dataclasses.replace(
    QWEN3,
    max_positions=32768,
    biases=("q", "k", "v"),
    eos_token_id=151643,
    architecture="qwen2",
)
# From 7 B on the embedding has more rows than the smaller ones'.
QWEN2_7B = dataclasses.replace(QWEN2, vocab_size=152064, max_positions=131072)
GEMMA2 = dataclasses.replace(
    LLAMA2,
    vocab_size=256000,
    head_dim=256,
    max_positions=8192,
    rms_norm_eps=1e-6,
    tie_embeddings=True,
    bos_token_id=2,
    eos_token_id=1,
    attention_softcap=50.0,
    final_softcap=30.0,
    architecture="gemma2",
)
GEMMA3_1B = dataclasses.replace(
    GEMMA2,
    vocab_size=262144,
    max_positions=32768,
    rope_theta=1000000.0,
    local_rope_theta=10000.0,
    attention_softcap=None,
    final_softcap=None,
    architecture="gemma3_text",
)
GEMMA3 = dataclasses.replace(  # the text part of a model that also sees images
    GEMMA3_1B,
    vocab_size=262208,
    max_positions=131072,
    rope_scaling=LinearScaling(8.0),
)


def _sized(
    family: ModelConfig, hidden, intermediate, layers, heads, kv_heads=None, **others
):
    """A size of a family.

    Args:
      kv_heads: None is the family's.
    """
    return dataclasses.replace(
        family,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads or family.num_kv_heads,
        **others,
    )


def _windows(layers: int, window: int, every: int) -> tuple[int, ...]:
    """Of each layer: a window, but for one layer in `every`."""
    return tuple(window if i % every else 0 for i in range(1, layers + 1))


SIZES = {
    "llama1_7b": LLAMA1,
    "llama1_13b": _sized(LLAMA1, 5120, 13824, 40, 40, 40),
    "llama1_30b": _sized(LLAMA1, 6656, 17920, 60, 52, 52),
    "llama1_65b": _sized(LLAMA1, 8192, 22016, 80, 64, 64, rms_norm_eps=1e-5),
    "llama2_7b": LLAMA2,
    "llama2_13b": _sized(LLAMA2, 5120, 13824, 40, 40, 40),
    "llama2_70b": _sized(LLAMA2, 8192, 28672, 80, 64, 8),
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
    "smollm_135m": _sized(SMOLLM, 576, 1536, 30, 9, 3, head_dim=64),
    "smollm_360m": _sized(SMOLLM, 960, 2560, 32, 15, 5, head_dim=64),
    "smollm_1.7b": _sized(SMOLLM, 2048, 8192, 24, 32, 32, head_dim=64),
    "smollm2_135m": _sized(SMOLLM2, 576, 1536, 30, 9, 3, head_dim=64),
    "smollm2_360m": _sized(SMOLLM2, 960, 2560, 32, 15, 5, head_dim=64),
    "smollm2_1.7b": _sized(
        SMOLLM2, 2048, 8192, 24, 32, 32, head_dim=64, rope_theta=130000.0
    ),
    "qwen2_0.5b": _sized(
        QWEN2,
        896,
        4864,
        24,
        14,
        2,
        head_dim=64,
        tie_embeddings=True,
        max_positions=131072,
    ),
    "qwen2_1.5b": _sized(
        QWEN2, 1536, 8960, 28, 12, 2, tie_embeddings=True, max_positions=131072
    ),
    "qwen2_7b": _sized(QWEN2_7B, 3584, 18944, 28, 28, 4),
    "qwen2_72b": _sized(QWEN2_7B, 8192, 29568, 80, 64, 8, rms_norm_eps=1e-5),
    "qwen2.5_0.5b": _sized(
        QWEN2, 896, 4864, 24, 14, 2, head_dim=64, tie_embeddings=True
    ),
    "qwen2.5_1.5b": _sized(
        QWEN2, 1536, 8960, 28, 12, 2, tie_embeddings=True, max_positions=131072
    ),
    "qwen2.5_3b": _sized(QWEN2, 2048, 11008, 36, 16, 2, tie_embeddings=True),
    "qwen2.5_7b": _sized(QWEN2_7B, 3584, 18944, 28, 28, 4),
    "qwen2.5_14b": _sized(QWEN2_7B, 5120, 13824, 48, 40, 8, rms_norm_eps=1e-5),
    "qwen2.5_32b": _sized(QWEN2_7B, 5120, 27648, 64, 40, 8, rms_norm_eps=1e-5),
    "qwen2.5_72b": _sized(QWEN2_7B, 8192, 29568, 80, 64, 8, rms_norm_eps=1e-5),
    "gemma2_2b": _sized(GEMMA2, 2304, 9216, 26, 8, 4, windows=_windows(26, 4096, 2)),
    "gemma2_9b": _sized(GEMMA2, 3584, 14336, 42, 16, 8, windows=_windows(42, 4096, 2)),
    "gemma2_27b": _sized(
        GEMMA2,
        4608,
        36864,
        46,
        32,
        16,
        head_dim=128,
        query_pre_attn_scalar=144.0,
        windows=_windows(46, 4096, 2),
    ),
    "gemma3_270m": _sized(GEMMA3_1B, 640, 2048, 18, 4, 1, windows=_windows(18, 512, 6)),
    "gemma3_1b": _sized(GEMMA3_1B, 1152, 6912, 26, 4, 1, windows=_windows(26, 512, 6)),
    "gemma3_4b": _sized(GEMMA3, 2560, 10240, 34, 8, 4, windows=_windows(34, 1024, 6)),
    "gemma3_12b": _sized(GEMMA3, 3840, 15360, 48, 16, 8, windows=_windows(48, 1024, 6)),
    "gemma3_27b": _sized(
        GEMMA3,
        5376,
        21504,
        62,
        32,
        16,
        head_dim=128,
        query_pre_attn_scalar=168.0,
        windows=_windows(62, 1024, 6),
    ),
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
