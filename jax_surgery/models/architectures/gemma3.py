# SPDX-License-Identifier: Apache-2.0
"""The text models of Gemma 3 (arXiv 2503.19786): Gemma 2's layer, whose queries and keys
are normalised in place of a cap, and five layers with a window for each without.

Layers with a window have rotary frequencies of a base of their own, which are not
scaled.
"""

from typing import Any

from jax_surgery.models.architectures.base import FULL, SLIDING
from jax_surgery.models.architectures.gemma2 import (
    ACTIVATION,
    DEFAULTS,
    LAYOUT,
    CentredRMSNorm,
    Gemma,
    GemmaBlock,
)
from jax_surgery.models.blocks import NormedAttention
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import QUERY_KEY_NORMS

LOCAL_THETA = 10_000.0


class CentredNormedAttention(NormedAttention):
    """Attention whose queries and keys pass `CentredRMSNorm`."""

    norm_class = CentredRMSNorm


class Gemma3Block(GemmaBlock):
    """A layer with `CentredNormedAttention`."""

    attention_class = CentredNormedAttention


class Gemma3(Gemma):
    """Its files have rotary frequencies for each kind of layer, in two spellings."""

    def _every(self, raw: dict[str, Any]) -> Any:
        return raw.get("sliding_window_pattern", 6)

    def read(self, raw: dict) -> ModelConfig:
        raw = self.defaults | raw
        everywhere, local = _rope_by_kind(raw)
        raw |= {"rope_scaling": None, "rope_parameters": everywhere}
        if local.get("rope_theta") is not None:
            raw["rope_local_base_freq"] = local["rope_theta"]
        if raw["rope_local_base_freq"] is None:
            raise ValueError(
                "config.json has rope_local_base_freq=None; give the base of the layers "
                f"with a window, {LOCAL_THETA:g} where nothing else is known."
            )
        return super().read(raw)

    def write(self, config: ModelConfig) -> dict:
        if config.local_rope_theta is None:
            raise ValueError(
                f"local_rope_theta=None: a {self.model_type} has a base for its layers "
                f"with a window; give one, {LOCAL_THETA:g} in published models."
            )
        return super().write(config)


def _rope_by_kind(raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rotary fields of layers that see the whole context, and of those with a window.

    As `transformers` reads them: `rope_scaling` is of the first alone and adds to what
    `rope_parameters` says by kind.

    Raises:
      ValueError: fields that are not of a kind, or a scaling of layers with a window.
    """
    by_kind = raw.get("rope_parameters") or {}
    given = [by_kind, raw.get("rope_scaling") or {}]
    given += by_kind.values() if isinstance(by_kind, dict) else []
    if any(not isinstance(fields, dict | None) for fields in given) or not set(
        by_kind
    ) <= {FULL, SLIDING}:
        raise ValueError(
            f"config.json has rope_parameters={raw.get('rope_parameters')!r} and "
            f"rope_scaling={raw.get('rope_scaling')!r}; rope_parameters has fields for "
            f"{FULL!r} and {SLIDING!r}, and rope_scaling those of the first."
        )
    everywhere = (by_kind.get(FULL) or {}) | (raw.get("rope_scaling") or {})
    local = by_kind.get(SLIDING) or {}
    kind = local.get("rope_type") or local.get("type") or "default"
    if kind != "default":
        raise ValueError(
            f"config.json has rope type {kind!r} for {SLIDING!r}; only 'default' is "
            "supported there."
        )
    return everywhere, local


GEMMA3 = Gemma3(
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    part_of="gemma3",
    defaults=DEFAULTS
    | {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": LOCAL_THETA,
    },
    # `transformers` reads this field and runs nothing of it.
    constants={"attn_logit_softcapping": None},
    numbers=(
        "query_pre_attn_scalar",
        "final_logit_softcapping",
        "rope_local_base_freq",
    ),
    activation=("hidden_activation", (ACTIVATION,)),
    scaled_embedding=True,
    biases={"attention_bias": ("q", "k", "v", "o")},
    sliding=True,
    layout=(*LAYOUT, *QUERY_KEY_NORMS),
    block=Gemma3Block,
)
