# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a decoder; `models.architectures` reads and writes them."""

import dataclasses
from typing import Any

from jax_surgery.models.rope import RopeScaling, Scaling, YarnScaling

__all__ = ["ModelConfig", "RopeScaling"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a decoder; widths in units, positions in tokens.

    Attributes:
      windows: tokens that each layer's attention spans, the token itself among them; 0
        for the whole context. () is 0 for every layer.
      biases: names of the matrices of each layer that have one (`layout.BIASES`).
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
    rope_scaling: Scaling | None = None
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_positions: int = 4096
    bos_token_id: int | None = None
    eos_token_id: Any = None
    initializer_range: float = 0.02
    windows: tuple[int, ...] = ()
    biases: tuple[str, ...] = ()
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

    @property
    def reach(self) -> float:
        """How many positions the model is made for, tokens.

        Files give those before scaling beside a factor, but Llama 3's give those after.
        """
        scaling = self.rope_scaling
        if scaling is None or isinstance(scaling, RopeScaling):
            return self.max_positions
        yarn = isinstance(scaling, YarnScaling)
        before = scaling.original_max_position_embeddings if yarn else 0
        return (before or self.max_positions) * scaling.factor
