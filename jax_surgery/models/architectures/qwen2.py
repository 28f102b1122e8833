# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Llama's layer, whose queries, keys and values
have biases.

Upper layers may have a sliding window (no published model uses it).
"""

from jax_surgery.models.architectures.base import (
    FULL,
    MOST_LAYERS,
    SLIDING,
    Architecture,
    layer_types,
)
from jax_surgery.models.config import ModelConfig

# What `transformers` takes for absent fields of Qwen2 and Qwen3.
DEFAULTS = {
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "use_sliding_window": False,
}


class Qwen(Architecture):
    """Its files say whether the window is used, and from which layer on."""

    def read(self, raw: dict) -> ModelConfig:
        raw = self.defaults | raw
        if not raw["use_sliding_window"]:
            raw["sliding_window"] = None
        if raw["sliding_window"] and raw.get("layer_types") is None:
            layers, full = raw.get("num_hidden_layers"), raw["max_window_layers"]
            if type(full) is not int:
                raise ValueError(
                    f"config.json has max_window_layers={full!r}; it must be a whole "
                    "number."
                )
            if type(layers) is int and layers <= MOST_LAYERS:  # else refused below
                types = [FULL if i < full else SLIDING for i in range(layers)]
                raw["layer_types"] = types
        return super().read(raw)

    def write(self, config: ModelConfig) -> dict:
        types = layer_types(config)
        return super().write(config) | {
            "use_sliding_window": SLIDING in types,
            "max_window_layers": [*types, SLIDING].index(SLIDING),
            "layer_types": types,
        }


QWEN2 = Qwen(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    defaults=DEFAULTS,
    biased=("q", "k", "v"),
    sliding=True,
)
