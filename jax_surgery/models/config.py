# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a decoder; `models.architectures` reads and writes them."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's scaling of the rotary frequencies.

    Attributes:
      factor: low frequencies are divided by it.
      low_freq_factor, high_freq_factor: bounds of the blend, in turns per original
        context.
      original_max_position_embeddings: context of pretraining, tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a decoder; widths in units, positions in tokens.

    Attributes:
      windows: tokens that each layer's attention spans, the token itself among them; 0
        for the whole context. () is 0 for every layer.
      architecture: its name in `models.architectures.ARCHITECTURES`. One that needs
        further constants may subclass this.
    """

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
    windows: tuple[int, ...] = ()
    architecture: str = "llama"

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must be a multiple of "
                f"num_kv_heads={self.num_kv_heads}: each group of query heads shares "
                "one key-value head."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} must be even: RoPE rotates pairs of channels."
            )
        if len(self.layer_windows) != self.num_layers or min(self.layer_windows) < 0:
            raise ValueError(
                f"windows={self.windows}: give one for each of num_layers="
                f"{self.num_layers} layers, 0 (whole context) or more tokens."
            )

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of each layer, 0 for the whole context."""
        return self.windows or (0,) * self.num_layers
