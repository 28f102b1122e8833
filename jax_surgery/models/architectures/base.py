# SPDX-License-Identifier: Apache-2.0
"""The interface of an architecture, and what their `config.json` files share."""

import dataclasses
from typing import Any

from jax_surgery.models.architectures.rope_fields import (
    positive_number,
    read_rope,
    write_rope,
)
from jax_surgery.models.blocks import Block
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import BIASES, DECODER, Layout

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
# Numbers that some have, which may be null, and ours.
NUMBERS = {
    "query_pre_attn_scalar": "query_pre_attn_scalar",
    "attn_logit_softcapping": "attention_softcap",
    "final_logit_softcapping": "final_softcap",
    "rope_local_base_freq": "local_rope_theta",
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
SIZES = (*NEEDED, "num_key_value_heads", "head_dim")
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
# A number beyond these is a mistake, and would take long to find out otherwise.
LARGEST, MOST_LAYERS = 2**31 - 1, 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """How a family of models is laid out and computed.

    One whose `config.json` has fields of its own extends `read` and `write`.

    Attributes:
      model_type: what `config.json` calls it; its key in `ARCHITECTURES`.
      class_name: of the model in `transformers`.
      part_of: the `model_type` of models that see images too and have this one as
        their `text_config`; "" for none.
      defaults: what `transformers` takes for fields that are absent, where that is not
        what `ModelConfig` takes.
      constants: fields that may have no other value, because the block has nothing
        else; they are written too.
      ignored: fields that change nothing, with the value that is written.
      numbers: those of `NUMBERS` that its files have.
      activation: the field that names the MLP's, and the names of the block's.
      scaled_embedding: whether embeddings are multiplied by the root of their width.
      biases: fields of `config.json` that give matrices a bias, and which.
      biased: matrices that have one in any case.
      sliding: whether layers may have a sliding window.
      layout: a row for each parameter, the matrices of `layout.MATRICES` among them;
        biases have theirs in `layout.BIASES`.
      block: the module of one layer, called like `blocks.Block`.
    """

    model_type: str
    class_name: str
    part_of: str = ""
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    ignored: dict[str, Any] = dataclasses.field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    # "swish" is another name of the same function.
    activation: tuple[str, tuple[str, ...]] = ("hidden_act", ("silu", "swish"))
    scaled_embedding: bool = False
    biases: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    biased: tuple[str, ...] = ()
    sliding: bool = False
    layout: Layout = DECODER
    block: type[Block] = Block

    def read(self, raw: dict[str, Any]) -> ModelConfig:
        """The config of a `config.json`; ValueError for what is not supported."""
        for key, value in self.constants.items():
            if raw.get(key, value) != value:
                raise ValueError(
                    f"config.json has {key}={raw[key]!r}; only {value!r} is supported."
                )
        if quantized := raw.get("quantization_config"):
            fields = quantized if isinstance(quantized, dict) else {}
            raise ValueError(
                "config.json has quantization_config (quant_method="
                f"{fields.get('quant_method')!r}); quantized weights are not read: give "
                "the model in bfloat16, float16 or float32."
            )
        field, names = self.activation
        if (act := raw.get(field, names[0])) not in names:
            raise ValueError(
                f"config.json has {field}={act!r}; only {names[0]!r} is supported."
            )
        raw = self.defaults | raw
        if missing := [name for name in NEEDED if name not in raw]:
            raise ValueError(
                f"config.json lacks {', '.join(missing)}; take the file that the "
                "checkpoint came with."
            )
        raw.setdefault("rms_norm_eps", 1e-6)
        _check_sizes(raw)
        heads = raw["num_attention_heads"]
        raw["num_key_value_heads"] = raw.get("num_key_value_heads") or heads
        raw["head_dim"] = raw.get("head_dim") or raw["hidden_size"] // heads
        if isinstance(raw.get("eos_token_id"), list):  # configs are hashed
            raw["eos_token_id"] = tuple(raw["eos_token_id"])
        numbers: dict[str, Any] = {
            NUMBERS[name]: positive_number(name, raw[name])
            for name in self.numbers
            if raw.get(name) is not None
        }
        theta, scaling = read_rope(raw)
        return ModelConfig(
            **{own: raw[name] for name, own in FIELDS.items() if name in raw},
            **numbers,
            rope_theta=theta,
            rope_scaling=scaling,
            windows=_read_windows(raw) if self.sliding else (),
            biases=self._read_biases(raw),
            architecture=self.model_type,
        )

    def _read_biases(self, raw: dict[str, Any]) -> tuple[str, ...]:
        """The matrices that have a bias, in the order of the layout."""
        chosen = set(self.biased)
        for field, names in self.biases.items():
            chosen |= set(names if raw.get(field) else ())
        return tuple(name for name in BIASES if name in chosen)

    def _write_biases(self, config: ModelConfig) -> dict:
        fields = {f: set(n) <= set(config.biases) for f, n in self.biases.items()}
        if self._read_biases(fields) != config.biases:
            raise ValueError(
                f"biases={config.biases}: config.json of a {self.model_type} has no "
                f"fields for just these; biases that it can have are {self.biases} "
                f"beside {self.biased}."
            )
        return fields

    def write(self, config: ModelConfig) -> dict:
        """The `config.json` that `transformers.AutoModelForCausalLM` loads.

        Raises:
          ValueError: sliding windows, biases or constants that the file has no fields
            for.
        """
        for name, own in NUMBERS.items():
            if name not in self.numbers and getattr(config, own) is not None:
                raise ValueError(
                    f"{own}={getattr(config, own)}: a {self.model_type} has no such "
                    "constant; leave it at None."
                )
        scaling = config.rope_scaling
        raw = {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "attention_dropout": 0.0,
            self.activation[0]: self.activation[1][0],
            **{name: getattr(config, own) for name, own in FIELDS.items()},
            **{name: getattr(config, NUMBERS[name]) for name in self.numbers},
            "rope_theta": config.rope_theta,
            "rope_scaling": scaling and write_rope(scaling),
        }
        if isinstance(config.eos_token_id, tuple):
            raw["eos_token_id"] = list(config.eos_token_id)
        raw |= self.constants | self._write_biases(config) | self.ignored
        return raw | self._write_windows(config)

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


def _check_sizes(raw: dict[str, Any]) -> None:
    """Raises ValueError where a field of a `config.json` is not of its kind."""
    for name in SIZES:
        value, optional = raw.get(name), name not in NEEDED
        if type(value) is not int and not (optional and value is None):
            raise ValueError(
                f"config.json has {name}={value!r}; it must be a whole number."
            )
        if value is not None and not 1 <= value <= LARGEST:
            raise ValueError(f"config.json has {name}={value}; use 1 to {LARGEST}.")
    if raw["num_hidden_layers"] > MOST_LAYERS:
        raise ValueError(
            f"config.json has num_hidden_layers={raw['num_hidden_layers']}; models have "
            f"at most {MOST_LAYERS}."
        )
    positive_number("rms_norm_eps", raw["rms_norm_eps"])
    spread = raw.get("initializer_range", 0.02)  # of new weights
    positive_number("initializer_range", spread, zero=True)
    for name in FLAGS:
        if type(value := raw.get(name, False)) is not bool and value is not None:
            raise ValueError(
                f"config.json has {name}={value!r}; it must be true or false."
            )
    for name in ("bos_token_id", "eos_token_id"):
        ids = raw.get(name)
        several = name == "eos_token_id" and isinstance(ids, list)
        listed = ids if several else [ids] if ids is not None else []
        if not all(type(i) is int and i >= 0 for i in listed):
            raise ValueError(
                f"config.json has {name}={ids!r}; it must be a token id"
                f"{' or a list of them' * (name == 'eos_token_id')}."
            )


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
    if type(window) is not int or not 0 <= window <= LARGEST:
        raise ValueError(
            f"config.json has sliding_window={window!r}; it must be a whole number of "
            "tokens."
        )
    types = raw.get("layer_types")
    if types is None:
        types = [SLIDING if window else FULL] * raw["num_hidden_layers"]
    if not isinstance(types, list):
        raise ValueError(  # noqa: TRY004, of a file, which users read in one line
            f"config.json has layer_types={types!r}; it must be a list, one for each "
            "layer."
        )
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
