# SPDX-License-Identifier: Apache-2.0
"""Gemma 2 (arXiv 2408.00118): norms before and after attention and MLP, a GELU gate,
scaled embeddings, capped scores and logits, and a window in every other layer.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_surgery.models.architectures.base import (
    FULL,
    MOST_LAYERS,
    SLIDING,
    Architecture,
    layer_types,
)
from jax_surgery.models.blocks import MLP, Block, RMSNorm
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import DECODER, row

# What `transformers` takes for absent fields of Gemma 2 and 3.
DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
ACTIVATION = "gelu_pytorch_tanh"


class CentredRMSNorm(RMSNorm):
    """x / rms(x) * (1 + scale), rounded once, at the end."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)
        self.scale = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = x32 * jax.lax.rsqrt(mean + self.eps)
        return (normed * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class GeluMLP(MLP):
    """GeGLU, with the approximation of GELU by tanh."""

    activation = staticmethod(functools.partial(jax.nn.gelu, approximate=True))


class GemmaBlock(Block):
    """A layer that norms also what attention and MLP add to the residual stream."""

    mlp_class = GeluMLP
    norm_class = CentredRMSNorm

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(c, rngs=rngs)
        self.attention_out_norm = self.norm_class(c.hidden_size, c.rms_norm_eps)
        self.mlp_out_norm = self.norm_class(c.hidden_size, c.rms_norm_eps)

    def after_attention(self, y):
        return self.attention_out_norm(y)

    def after_mlp(self, y):
        return self.mlp_out_norm(y)


# Llama's norm before the MLP has in its files the name that is here the norm's after
# attention.
MLP_NORM = "layers/mlp_norm/scale"
LAYOUT = (
    *(entry for entry in DECODER if "/".join(entry.path) != MLP_NORM),
    row("layers/attention_out_norm/scale", "post_attention_layernorm", "D", "-"),
    row(MLP_NORM, "pre_feedforward_layernorm", "D", "-"),
    row("layers/mlp_out_norm/scale", "post_feedforward_layernorm", "D", "-"),
)


class Gemma(Architecture):
    """Its files may leave out which layers have a window: all but every second."""

    def _every(self, raw: dict[str, Any]) -> Any:
        """One layer in so many sees the whole context."""
        del raw
        return 2

    def read(self, raw: dict) -> ModelConfig:
        raw = self.defaults | raw
        if raw.get("use_bidirectional_attention"):
            raise ValueError(
                "config.json has use_bidirectional_attention="
                f"{raw['use_bidirectional_attention']!r}; decoders that look back alone "
                "are supported."
            )
        if raw.get("layer_types") is None:
            layers, every = raw["num_hidden_layers"], self._every(raw)
            if type(every) is not int or every < 1:
                raise ValueError(
                    f"config.json has sliding_window_pattern={every!r}; it must be a "
                    "whole number of 1 or more."
                )
            if type(layers) is int and layers <= MOST_LAYERS:  # else refused below
                raw["layer_types"] = [
                    SLIDING if i % every else FULL for i in range(1, layers + 1)
                ]
        config = super().read(raw)
        # One spelling of what is the same: None is the width of a head.
        if config.query_pre_attn_scalar == config.head_dim:
            config = dataclasses.replace(config, query_pre_attn_scalar=None)
        return config

    def write(self, config: ModelConfig) -> dict:
        raw = super().write(config)
        scalar = config.query_pre_attn_scalar or config.head_dim
        return raw | {
            # `transformers` takes whole numbers alone.
            "query_pre_attn_scalar": int(scalar) if scalar % 1 == 0 else scalar,
            # It makes the mask of a window also where no layer uses it.
            "sliding_window": raw["sliding_window"] or DEFAULTS["sliding_window"],
            "layer_types": layer_types(config),
        }


GEMMA2 = Gemma(
    model_type="gemma2",
    class_name="Gemma2ForCausalLM",
    defaults=DEFAULTS
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ignored={"hidden_act": ACTIVATION},
    numbers=(
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ),
    activation=("hidden_activation", (ACTIVATION,)),
    scaled_embedding=True,
    biases={"attention_bias": ("q", "k", "v", "o")},
    sliding=True,
    layout=LAYOUT,
    block=GemmaBlock,
)
