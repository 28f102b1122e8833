# SPDX-License-Identifier: Apache-2.0
"""The interface of an architecture, and what their `config.json` files share."""

import dataclasses
from typing import Any

from jax_surgery.models.blocks import Block
from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.models.layout import DECODER, Layout

FULL, SLIDING = "full_attention", "sliding_attention"
# Fields of a `config.json` that all decoders have, and ours.
FIELDS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "head_dim": "head_dim",
    "hidden_size": "hidden_size",
    "initializer_range": "initializer_range",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "vocab_size": "vocab_size",
}


# Those that each `config.json` has, or its architecture has a default for.
NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """How a family of models is laid out and computed.

    One whose `config.json` has fields of its own extends `read` and `write`.

    Attributes:
      model_type: what `config.json` calls it; its key in `ARCHITECTURES`.
      class_name: of the model in `transformers`.
      defaults: what `transformers` takes for fields that are absent, where that is not
        what `ModelConfig` takes.
      constants: fields that may have no other value, because the block has nothing
        else; they are written too.
      sliding: whether layers may have a sliding window.
      layout: a row for each parameter, the matrices of `layout.MATRICES` among them.
      block: the module of one layer, called like `blocks.Block`.
    """

    model_type: str
    class_name: str
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    sliding: bool = False
    layout: Layout = DECODER
    block: type[Block] = Block

    def read(self, raw: dict[str, Any]) -> ModelConfig:
        """The config of a `config.json`; ValueError for what is not supported."""
        for key, value in ({"hidden_act": "silu"} | self.constants).items():
            if raw.get(key, value) != value:
                raise ValueError(
                    f"config.json has {key}={raw[key]!r}; only {value!r} is supported."
                )
        raw = self.defaults | raw
        if missing := [name for name in NEEDED if name not in raw]:
            raise ValueError(
                f"config.json lacks {', '.join(missing)}; take the file that the "
                "checkpoint came with."
            )
        raw.setdefault("rms_norm_eps", 1e-6)
        heads = raw["num_attention_heads"]
        raw["num_key_value_heads"] = raw.get("num_key_value_heads") or heads
        raw["head_dim"] = raw.get("head_dim") or raw["hidden_size"] // heads
        theta, scaling = _read_rope(raw)
        return ModelConfig(
            **{own: raw[name] for name, own in FIELDS.items() if name in raw},
            rope_theta=theta,
            rope_scaling=scaling,
            windows=_read_windows(raw) if self.sliding else (),
            architecture=self.model_type,
        )

    def write(self, config: ModelConfig) -> dict:
        """The `config.json` that `transformers.AutoModelForCausalLM` loads.

        Raises:
          ValueError: sliding windows that the file has no fields for.
        """
        scaling = config.rope_scaling
        raw = {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            **{name: getattr(config, own) for name, own in FIELDS.items()},
            "rope_theta": config.rope_theta,
            "rope_scaling": scaling and {"rope_type": "llama3", **vars(scaling)},
        }
        return raw | self.constants | self._write_windows(config)

    def _write_windows(self, config: ModelConfig) -> dict:
        lengths = sorted(set(config.layer_windows) - {0})
        if not self.sliding:
            if lengths:
                raise ValueError(
                    f"windows={config.windows}: a {self.model_type}'s layers see the "
                    "whole context; use architecture='mistral' for the same layers with "
                    "sliding windows."
                )
            return {}
        if len(lengths) > 1:
            raise ValueError(
                f"windows={config.windows}: config.json has one sliding_window; use one "
                f"length for all layers that have a window, e.g. {lengths[-1]}."
            )
        fields: dict[str, Any] = {"sliding_window": lengths[0] if lengths else None}
        types = layer_types(config)
        return fields if len(set(types)) == 1 else fields | {"layer_types": types}


def _read_rope(raw: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """`rope_theta` and scaling, from the top level or from `rope_parameters`.

    Raises:
      ValueError: another kind of scaling than Llama 3's, or fields of it are missing.
    """
    parameters = raw.get("rope_parameters") or {}
    theta = float(parameters.get("rope_theta", raw.get("rope_theta", 10000.0)))
    scaling = raw.get("rope_scaling") or parameters
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"rope type {kind!r} is not supported; 'default' and 'llama3' are."
        )
    names = [field.name for field in dataclasses.fields(RopeScaling)]
    if missing := [name for name in names if name not in scaling]:
        raise ValueError(f"llama3 rope scaling lacks {', '.join(missing)}.")
    return theta, RopeScaling(**{name: scaling[name] for name in names})


def layer_types(config: ModelConfig) -> list[str]:
    """What `config.json` calls each layer's attention."""
    return [SLIDING if window else FULL for window in config.layer_windows]


def _read_windows(raw: dict[str, Any]) -> tuple[int, ...]:
    """The sliding window of each layer in tokens, 0 for none; () where no layer has one.

    Without `layer_types` every layer has it.

    Raises:
      ValueError: kinds of layers that are not supported, or sliding ones and no window.
    """
    window = raw.get("sliding_window") or 0
    types = raw.get("layer_types")
    if types is None:
        types = [SLIDING if window else FULL] * raw["num_hidden_layers"]
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
    windows = tuple(window if kind == SLIDING else 0 for kind in types)
    return windows if any(windows) else ()
