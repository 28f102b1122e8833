# SPDX-License-Identifier: Apache-2.0
"""Architecture of a Llama, and its Hugging Face `config.json` in both forms."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's scaling of the rotary frequencies.

    Attributes:
      factor: low frequencies are divided by it.
      low_freq_factor, high_freq_factor: bounds of the blend, in turns per original
        context.
      original_max_positions: context of pretraining, tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a Llama; widths in units, positions in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_positions: int = 4096
    bos_token_id: int | None = None
    eos_token_id: Any = None
    initializer_range: float = 0.02

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be a multiple of "
                f"num_kv_heads={self.num_kv_heads}: each group of query heads shares "
                "one key-value head."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} must be even: RoPE turns pairs of channels."
            )


def _rope(raw: dict) -> tuple[float, RopeScaling | None]:
    """`rope_theta` and scaling, from the top level or from `rope_parameters`."""
    parameters = raw.get("rope_parameters") or {}
    theta = parameters.get("rope_theta", raw.get("rope_theta", 10000.0))
    scaling = raw.get("rope_scaling") or parameters
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise ValueError(
            f"rope type {kind!r} is not supported; 'default' and 'llama3' are."
        )
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    missing = [
        k for k in (*keys, "original_max_position_embeddings") if k not in scaling
    ]
    if missing:
        raise ValueError(f"llama3 rope scaling lacks {', '.join(missing)}.")
    return float(theta), RopeScaling(
        *(float(scaling[k]) for k in keys),
        int(scaling["original_max_position_embeddings"]),
    )


def from_hf(raw: dict) -> ModelConfig:
    """Reads a `config.json`.

    Raises:
      ValueError: not a Llama, or a feature this model does not have.
    """
    if raw.get("model_type") != "llama":
        raise ValueError(
            f"model_type={raw.get('model_type')!r}; only 'llama' checkpoints are "
            "supported."
        )
    wanted = {
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "pretraining_tp": 1,
    }
    for key, value in wanted.items():
        if raw.get(key, value) != value:
            raise ValueError(
                f"config.json has {key}={raw[key]!r}; only {value!r} is supported."
            )
    theta, scaling = _rope(raw)
    heads = raw["num_attention_heads"]
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        tie_embeddings=raw.get("tie_word_embeddings", False),
        max_positions=raw.get("max_position_embeddings", 2048),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_id=raw.get("eos_token_id"),
        initializer_range=raw.get("initializer_range", 0.02),
    )


def to_hf(config: ModelConfig) -> dict:
    """The `config.json` that `transformers.AutoModelForCausalLM` reads."""
    scaling = None
    if config.rope_scaling:
        scaling = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": (
                config.rope_scaling.original_max_positions
            ),
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "mlp_bias": False,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }
