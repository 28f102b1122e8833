# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a decoder, counted from its shapes.

A product of [m, k] by [k, n] is 2 m k n. Counted: the seven matrices of each layer,
attention's two products (over the whole row or the layer's sliding window; what a kernel
leaves out of that is not taken off), and the output head on every token.
Norms, RoPE, softmax and other element-wise work are left out (a few percent).
"""

import math

from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import ALL, Trainable

# The order in which a layer applies its matrices: that of the statistics they have.
_STATISTICS = list(dict.fromkeys(row.statistic for row in MATRICES.values()))
ORDER = {name: _STATISTICS.index(row.statistic) for name, row in MATRICES.items()}
# Attention's own products come before the matrix that reads what they make.
AFTER_ATTENTION = ORDER["o"]


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """[inputs, outputs] of each of a layer's matrices."""
    rows = architectures.matrices(config)
    return {name: row.matrix_shape(config) for name, row in rows.items()}


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Weights of each of a layer's matrices."""
    return {name: rows * cols for name, (rows, cols) in matrix_shapes(config).items()}


def _attention(config: ModelConfig, context: float) -> list[float]:
    """Multiplications per token of each layer's two attention products."""
    spans = (min(window or context, context) for window in config.layer_windows)
    return [2 * span * config.num_heads * config.head_dim for span in spans]


def forward_flops(config: ModelConfig, tokens: int, context: float) -> float:
    """FLOPs of a forward pass with the head on every token.

    Args:
      config: the model.
      tokens: in all rows, padding included (it is computed too).
      context: tokens a row, which attention spans.
    """
    layers = config.num_layers * sum(_sizes(config).values())
    head = config.hidden_size * config.vocab_size
    return 2.0 * tokens * (layers + sum(_attention(config, context)) + head)


def _factor_sizes(config: ModelConfig, trainable: Trainable, rank: int):
    """Weights of A and of B of each matrix with a low-rank delta, by name."""
    shapes = {name: matrix_shapes(config)[name] for name in trainable.matrices}
    before = {name: rank * rows for name, (rows, _) in shapes.items()}
    return before, {name: rank * cols for name, (_, cols) in shapes.items()}


def backward_flops(
    config: ModelConfig,
    tokens: int,
    context: float,
    trainable: Trainable = ALL,
    rank: int = 0,
) -> float:
    """FLOPs of a backward pass: a product for the gradient of each product's input
    that a moving parameter lies before, and one for each moving matrix.

    With low-rank deltas (`rank` > 0) no product is formed for the matrix, but three for
    the factors A and B of its delta: both gradients, and that of x A.
    """
    sizes, attention = _sizes(config), _attention(config, context)
    head = config.hidden_size * config.vocab_size
    every = sum(sizes.values())
    if not trainable.matrices:
        # The first layer's inputs have gradients too: the embedding moves.
        layers = 2 * (config.num_layers * every + sum(attention))
        return 2.0 * tokens * (layers + 2 * head)
    moving = sum(sizes[name] for name in trainable.matrices)
    if rank:
        a, b = _factor_sizes(config, trainable, rank)
        moving = sum(a.values()) + 2 * sum(b.values())
        sizes = {name: size + a.get(name, 0) for name, size in sizes.items()}
        every = sum(sizes.values())
    lowest = min(ORDER[name] for name in trainable.matrices)
    after = sum(size for name, size in sizes.items() if ORDER[name] > lowest)
    own, *above = attention[trainable.first_layer :]
    first = moving + after + 2 * own * (lowest < AFTER_ATTENTION)
    upper = len(above) * (moving + every) + 2 * sum(above)
    return 2.0 * tokens * (head + first + upper)


def training_flops(
    config: ModelConfig,
    tokens: int,
    context: float,
    trainable: Trainable = ALL,
    rank: int = 0,
) -> float:
    """FLOPs of a forward and a backward pass; `rank` is of low-rank deltas."""
    forward = forward_flops(config, tokens, context)
    if rank:
        a, b = _factor_sizes(config, trainable, rank)
        factors = sum(a.values()) + sum(b.values())
        # Every layer has factors, also those that do not move.
        forward += 2.0 * tokens * config.num_layers * factors
    return forward + backward_flops(config, tokens, context, trainable, rank)


def moments_flops(
    config: ModelConfig,
    tokens: int,
    context: float,
    widths: dict[str, int],
    layers: int,
) -> float:
    """FLOPs of a forward pass without the head that sums inputs' second moments.

    Args:
      config, tokens, context: as `forward_flops`.
      widths: of the inputs of a layer whose moments are summed.
      layers: how many layers' are.
    """
    head = 2.0 * tokens * config.hidden_size * config.vocab_size
    squares = layers * sum(width**2 for width in widths.values())
    return forward_flops(config, tokens, context) - head + 2.0 * tokens * squares


def newton_schulz_flops(
    config: ModelConfig, trainable: Trainable, iterations: int
) -> float:
    """FLOPs of orthogonalising the moving matrices, all seven where everything moves."""
    total = 0
    for name in trainable.matrices or matrix_shapes(config):
        small, large = sorted(matrix_shapes(config)[name])
        total += iterations * (2 * small**2 * large + small**3)
    return 2.0 * (config.num_layers - trainable.first_layer) * total


def direction_flops(
    config: ModelConfig, trainable: Trainable, newton_schulz_steps: int
) -> float:
    """FLOPs of one preconditioned direction: two triangular solves, and between them
    Newton-Schulz iterations (0 without)."""
    iterations = newton_schulz_flops(config, trainable, newton_schulz_steps)
    return solve_flops(config, trainable) + iterations


def cholesky_flops(widths: dict[str, int], layers: int) -> float:
    """FLOPs of Cholesky factors of layers' moments by whole blocks, 2 d^3 each."""
    return layers * sum(2.0 * width**3 for width in widths.values())


def solve_flops(config: ModelConfig, trainable: Trainable) -> float:
    """FLOPs of solving with such factors for all moving matrices: two triangular
    solves by whole blocks of the inputs' width, 2 inputs^2 outputs each."""
    shapes = matrix_shapes(config)
    each = sum(4.0 * shapes[n][0] ** 2 * shapes[n][1] for n in trainable.matrices)
    return (config.num_layers - trainable.first_layer) * each


def sketch_flops(
    config: ModelConfig, trainable: Trainable, columns: int, iterations: int
) -> float:
    """FLOPs of the products of all moving matrices with their sketches; see
    `optim.linalg.svd.randomised_svd`.

    Two, and two for each iteration; the decompositions of thin matrices are left out.
    """
    shapes = matrix_shapes(config)
    each = sum(2.0 * math.prod(shapes[name]) * columns for name in trainable.matrices)
    layers = config.num_layers - trainable.first_layer
    return layers * (2 + 2 * iterations) * each
