# SPDX-License-Identifier: Apache-2.0
"""The interface of an architecture, and what their `config.json` files share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax_surgery.models.blocks import Block
from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.models.layout import DECODER, Layout

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How a family of models is laid out and computed.

    Attributes:
      model_type: what `config.json` calls it; its key in `ARCHITECTURES`.
      read: makes the config of a `config.json`; raises ValueError for a feature that
        the block does not have.
      write: makes a `config.json` that `transformers.AutoModelForCausalLM` loads.
      layout: a row for each parameter, the matrices of `layout.MATRICES` among them.
      block: the module of one layer, called like `blocks.Block`.
    """

    model_type: str
    read: Callable[[dict], ModelConfig]
    write: Callable[[ModelConfig], dict]
    layout: Layout = DECODER
    block: type[Block] = Block


def require(raw: dict, wanted: dict[str, Any]) -> None:
    """Raises ValueError where a field that is given has another value."""
    for key, value in wanted.items():
        if raw.get(key, value) != value:
            raise ValueError(
                f"config.json has {key}={raw[key]!r}; only {value!r} is supported."
            )


def read_rope(raw: dict) -> tuple[float, RopeScaling | None]:
    """`rope_theta` and scaling, from the top level or from `rope_parameters`.

    Raises:
      ValueError: another kind of scaling than Llama 3's, or fields of it are missing.
    """
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
        **{key: float(scaling[key]) for key in keys},
        original_max_positions=int(scaling["original_max_position_embeddings"]),
    )


def _write_rope(scaling: RopeScaling | None) -> dict | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }


def read_windows(raw: dict, window: int | None, first: int = 0) -> tuple[int, ...]:
    """The sliding window of each layer in tokens, 0 for none; () where no layer has one.

    Args:
      raw: whose `layer_types`, where they are given, say which layers have it.
      window: of the layers that have one; None for none.
      first: without `layer_types`, the layers from this one on have it.

    Raises:
      ValueError: kinds of layers that are not supported, or sliding ones and no window.
    """
    layers = raw["num_hidden_layers"]
    types = raw.get("layer_types")
    if types is None:
        types = [
            SLIDING if window and index >= first else FULL for index in range(layers)
        ]
    if strange := [kind for kind in types if kind not in (FULL, SLIDING)]:
        raise ValueError(
            f"config.json has layer_types with {strange[0]!r}; {FULL!r} and {SLIDING!r} "
            "are supported."
        )
    if SLIDING in types and not window:
        raise ValueError(
            f"config.json has layer_types with {SLIDING!r} and no sliding window; give "
            "sliding_window in tokens (for qwen3 also use_sliding_window=true)."
        )
    windows = tuple((window or 0) if kind == SLIDING else 0 for kind in types)
    return windows if any(windows) else ()


def write_windows(config: ModelConfig) -> tuple[int | None, list[str]]:
    """(sliding_window, layer_types) of a `config.json`.

    Raises:
      ValueError: windows of several lengths, for which the file has no field.
    """
    windows = config.layer_windows
    if len(lengths := sorted(set(windows) - {0})) > 1:
        raise ValueError(
            f"windows={windows}: config.json has one sliding_window; use one length "
            f"for all layers that have a window, e.g. {lengths[-1]}."
        )
    window = lengths[0] if lengths else None
    return window, [SLIDING if window else FULL for window in windows]


def read_fields(raw: dict, **others: Any) -> ModelConfig:
    """The fields of a `config.json` that all decoders have.

    Args:
      raw: the file; fields whose absence means different values in different
        architectures must be there.
      others: further fields of the config.
    """
    theta, scaling = read_rope(raw)
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
        max_positions=raw["max_position_embeddings"],
        bos_token_id=raw.get("bos_token_id"),
        eos_token_id=raw.get("eos_token_id"),
        initializer_range=raw.get("initializer_range", 0.02),
        architecture=raw["model_type"],
        **others,
    )


def write_fields(config: ModelConfig, class_name: str) -> dict:
    """The fields of a `config.json` that all decoders have.

    Args:
      config: the model.
      class_name: of the model in `transformers`.
    """
    return {
        "architectures": [class_name],
        "model_type": config.architecture,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _write_rope(config.rope_scaling),
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }
