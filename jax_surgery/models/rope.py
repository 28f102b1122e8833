# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: the angle per token of each channel pair, and its scalings.

Each scaling is what `transformers` computes for its `rope_type`. H is the width of a
head, and `theta` the base of the frequencies theta^(-2i/H).
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np


def _exponents(width: int) -> jax.Array:
    """2i/H of each channel pair, [H / 2]."""
    return jnp.arange(0, width, 2, dtype=jnp.float32) / width


def frequencies(theta: float, width: int) -> jax.Array:
    """Angle per position of each channel pair, [H / 2], radians per token."""
    return theta ** -_exponents(width)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's scaling of the rotary frequencies.

    Frequencies that turn less than `low_freq_factor` times over the original context
    are divided by `factor`, those above `high_freq_factor` stay as they are, and those
    between are blended.

    Attributes:
      factor: low frequencies are divided by it.
      low_freq_factor, high_freq_factor: bounds of the blend, in turns per original
        context.
      original_max_position_embeddings: context of pretraining, tokens.
    """

    rope_type: ClassVar = "llama3"

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def frequencies(self, theta: float, width: int) -> jax.Array:
        """[H / 2], radians per token."""
        frequency = frequencies(theta, width)
        turns = self.original_max_position_embeddings * frequency / (2 * math.pi)
        blend = (turns - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        blend = jnp.clip(blend, 0.0, 1.0)
        return frequency * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Every frequency is divided by `factor` (arXiv 2306.15595)."""

    rope_type: ClassVar = "linear"

    factor: float

    def frequencies(self, theta: float, width: int) -> jax.Array:
        """[H / 2], radians per token."""
        return frequencies(theta, width) / self.factor


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """The base grows with the document, once that is longer than the model's positions.

    A document of n tokens, more than the p positions of the model, has the base
    theta (factor n / p - factor + 1)^(H / (H - 2)); shorter ones have theta.
    """

    rope_type: ClassVar = "dynamic"

    factor: float

    def frequencies_BT(
        self, theta: float, width: int, positions: int, lengths_BT: jax.Array
    ) -> jax.Array:
        """[B, T, H / 2], radians per token.

        Args:
          positions: of the model.
          lengths_BT: tokens of the document that each token is of.
        """
        longer = jnp.maximum(lengths_BT, positions).astype(jnp.float32) / positions
        grown = (self.factor * longer - (self.factor - 1)) ** (width / (width - 2))
        base = theta * grown[..., None]
        return base ** -_exponents(width)


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): Llama 3's idea with a ramp over channel pairs.

    Attributes:
      factor: low frequencies are divided by it.
      original_max_position_embeddings: context of pretraining, tokens.
      attention_factor: of cos and sin; None follows from the next two and `factor`.
      mscale, mscale_all_dim: see `amplitude`; None or 0 where they are not used.
      beta_fast, beta_slow: bounds of the ramp, in turns per original context.
      truncate: whether the ramp begins and ends at whole channel pairs.
    """

    rope_type: ClassVar = "yarn"

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""

        def of(scale: float) -> float:
            return 0.1 * scale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return of(self.mscale) / of(self.mscale_all_dim)
        return of(1.0)

    def frequencies(self, theta: float, width: int) -> jax.Array:
        """[H / 2], radians per token."""

        def pair(turns: float) -> float:
            """The channel pair that turns so often over the original context."""
            context = self.original_max_position_embeddings
            tokens = math.log(context / (turns * 2 * math.pi))
            return width * tokens / (2 * math.log(theta))

        low, high = pair(self.beta_fast or 32), pair(self.beta_slow or 1)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        high += 0.001 * (low == high)
        ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
        kept = jnp.asarray(1 - ramp, jnp.float32)
        frequency = frequencies(theta, width)
        return frequency * kept + frequency / self.factor * (1 - kept)


Scaling = RopeScaling | LinearScaling | DynamicScaling | YarnScaling
# `rope_type` of a config.json -> the scaling.
SCALINGS: dict[str, Any] = {
    kind.rope_type: kind
    for kind in (RopeScaling, LinearScaling, DynamicScaling, YarnScaling)
}


def document_lengths(segment_ids_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Tokens of the document that each token is of, [B, T].

    Args:
      segment_ids_BT: of packed documents, each of which lies in one piece.
      positions_BT: of each token in its document.
    """
    tokens = segment_ids_BT.shape[1]
    following = jnp.pad(segment_ids_BT[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    places_T = jnp.arange(tokens)
    ends_BT = jnp.where(segment_ids_BT != following, places_T, tokens)
    ends_BT = jax.lax.cummin(ends_BT, axis=1, reverse=True)
    return jnp.take_along_axis(positions_BT, ends_BT, axis=1) + 1
