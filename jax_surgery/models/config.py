# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a decoder; `models.architectures` reads and writes them."""

import dataclasses
from typing import Any, NamedTuple

from jax_surgery.models.rope import RopeScaling, Scaling, YarnScaling

__all__ = ["ModelConfig", "RopeScaling"]


class Scores(NamedTuple):
    """How attention makes its scores of the products of queries and keys.

    Attributes:
      scale: the products are multiplied by it; None is 1 / sqrt(width of a head).
      softcap: scores s become c tanh(s / c) before they are masked; None leaves them.
      width: of a head, which kernels are chosen by; 0 is any that all of them take.
    """

    scale: float | None = None
    softcap: float | None = None
    width: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a decoder; widths in units, positions in tokens.

    Attributes:
      windows: tokens that each layer's attention spans, the token itself among them; 0
        for the whole context. () is 0 for every layer.
      biases: names of the matrices of each layer that have one (`layout.BIASES`).
      query_pre_attn_scalar: attention's scores are divided by its root; None is head_dim.
      attention_softcap: see `Scores`.
      final_softcap: c of the final logits, which become c tanh(z / c); None leaves them.
      local_rope_theta: base of the rotary frequencies, unscaled, of layers with a
        window; None where all layers rotate alike.
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
    query_pre_attn_scalar: float | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None
    local_rope_theta: float | None = None
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
    def scores(self) -> Scores:
        """How each layer's attention makes its scores."""
        scale = (self.query_pre_attn_scalar or self.head_dim) ** -0.5
        return Scores(scale, self.attention_softcap, self.head_dim)

    @property
    def layer_ropes(self) -> tuple[tuple[float, Scaling | None], ...]:
        """Base and scaling of each layer's rotary frequencies."""
        everywhere = (self.rope_theta, self.rope_scaling)
        if self.local_rope_theta is None:
            return (everywhere,) * self.num_layers
        local = (self.local_rope_theta, None)
        return tuple(local if window else everywhere for window in self.layer_windows)

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
