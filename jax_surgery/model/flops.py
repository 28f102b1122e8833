# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a Llama, counted from its shapes.

A product of [m, k] by [k, n] is 2 m k n. Counted: the seven matrices of each layer,
attention's two products (over the whole row, as computed), and the output head.
Norms, RoPE, softmax and other element-wise work are left out (a few percent).
"""

from jax_surgery.model.config import LlamaConfig

# A backward pass computes two products for every one of the forward pass.
TRAINING_FACTOR = 3


def layer_weights(config: LlamaConfig) -> int:
    """Weights of one layer's matrices."""
    width, heads = config.hidden_size, config.head_dim
    attention = width * heads * 2 * (config.num_heads + config.num_kv_heads)
    return attention + 3 * width * config.intermediate_size


def forward_flops(config: LlamaConfig, tokens: int, context: int) -> float:
    """FLOPs of a forward pass with the head on every token.

    Args:
      config: the model.
      tokens: in all rows, padding included (it is computed too).
      context: tokens a row, which attention spans.
    """
    products = config.num_layers * layer_weights(config)
    products += config.hidden_size * config.vocab_size
    attention = 2 * config.num_layers * context * config.num_heads * config.head_dim
    return 2.0 * tokens * (products + attention)


def training_flops(config: LlamaConfig, tokens: int, context: int) -> float:
    """FLOPs of a forward and a backward pass."""
    return TRAINING_FACTOR * forward_flops(config, tokens, context)


def moments_flops(config: LlamaConfig, tokens: int, context: int) -> float:
    """FLOPs of a forward pass that also sums the inputs' second moments."""
    inner = config.num_heads * config.head_dim
    squares = 2 * config.hidden_size**2 + inner**2 + config.intermediate_size**2
    without_head = (
        forward_flops(config, tokens, context)
        - 2.0 * tokens * config.hidden_size * config.vocab_size
    )
    return without_head + 2.0 * tokens * config.num_layers * squares


def inversion_flops(config: LlamaConfig) -> float:
    """FLOPs of inverting all layers' moments through Cholesky (7 d^3 / 3 each)."""
    inner = config.num_heads * config.head_dim
    widths = (config.hidden_size, inner, config.hidden_size, config.intermediate_size)
    return config.num_layers * sum(7 * d**3 / 3 for d in widths)


def preconditioning_flops(config: LlamaConfig) -> float:
    """FLOPs of multiplying one gradient by the inverses (2 d^2 a column)."""
    d, f = config.hidden_size, config.intermediate_size
    inner, kv = (
        config.num_heads * config.head_dim,
        config.num_kv_heads * config.head_dim,
    )
    per_layer = d**2 * (inner + 2 * kv + 2 * f) + inner**2 * d + f**2 * d
    return 2.0 * config.num_layers * per_layer
