# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a decoder, counted from its shapes.

A product of [m, k] by [k, n] is 2 m k n. Counted: the seven matrices of each layer,
attention's two products (over the whole row or the layer's sliding window; what a kernel
leaves out of that is not taken off), and the output head on every token.
Norms, RoPE, softmax and other element-wise work are left out (a few percent).
"""

from collections.abc import Callable

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


def layers_flops(
    config: ModelConfig, tokens: int, context: float, layers: int
) -> float:
    """FLOPs of a forward pass through the lowest `layers` alone.

    Args:
      config, tokens, context: as `forward_flops`.
    """
    attention = sum(_attention(config, context)[:layers])
    return 2.0 * tokens * (layers * sum(_sizes(config).values()) + attention)


def forward_flops(config: ModelConfig, tokens: int, context: float) -> float:
    """FLOPs of a forward pass with the head on every token.

    Args:
      config: the model.
      tokens: in all rows, padding included (it is computed too).
      context: tokens per row, which attention spans.
    """
    head = 2.0 * tokens * config.hidden_size * config.vocab_size
    return layers_flops(config, tokens, context, config.num_layers) + head


def training_flops(
    config: ModelConfig,
    tokens: int,
    context: float,
    trainable: Trainable = ALL,
    rank: int = 0,
) -> float:
    """FLOPs of a forward and a backward pass.

    The backward pass has a product for the gradient of each product's input that a
    moving parameter lies before, and one for each moving matrix. With low-rank deltas
    no product is formed for the matrix, but three for the factors A and B of its delta:
    both gradients, and that of x A.

    Args:
      config, tokens, context: as `forward_flops`.
      trainable: what moves.
      rank: of low-rank deltas; 0 for none.
    """
    forward = forward_flops(config, tokens, context)
    if not trainable.matrices:
        # The first layer's inputs have gradients too: the embedding moves.
        return 3 * forward
    sizes, attention = _sizes(config), _attention(config, context)
    moving = sum(sizes[name] for name in trainable.matrices)
    if rank:
        shapes = matrix_shapes(config)
        a = {name: rank * shapes[name][0] for name in trainable.matrices}
        b = sum(rank * shapes[name][1] for name in trainable.matrices)
        # Every layer has factors, also those that do not move.
        forward += 2.0 * tokens * config.num_layers * (sum(a.values()) + b)
        moving = sum(a.values()) + 2 * b
        sizes = {name: size + a.get(name, 0) for name, size in sizes.items()}
    lowest = min(ORDER[name] for name in trainable.matrices)
    after = sum(size for name, size in sizes.items() if ORDER[name] > lowest)
    own, *above = attention[trainable.first_layer :]
    first = moving + after + 2 * own * (lowest < AFTER_ATTENTION)
    upper = len(above) * (moving + sum(sizes.values())) + 2 * sum(above)
    head = config.hidden_size * config.vocab_size
    return forward + 2.0 * tokens * (head + first + upper)


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


def output_moments_flops(
    config: ModelConfig,
    tokens: int,
    context: float,
    widths: dict[str, int],
    layers: int,
) -> float:
    """FLOPs of a forward pass and of a backward one without gradients of weights, that
    sum second moments of outputs' gradients.

    Args:
      config, tokens, context: as `forward_flops`.
      widths: of the outputs of a layer whose moments are summed, by matrix.
      layers: how many layers' are.
    """
    squares = layers * sum(width**2 for width in widths.values())
    return 2.0 * forward_flops(config, tokens, context) + 2.0 * tokens * squares


def cholesky_flops(widths: dict[str, int], layers: int) -> float:
    """FLOPs of Cholesky factors of layers' moments by whole blocks, 2 d^3 each."""
    return layers * sum(2.0 * width**3 for width in widths.values())


def _of_moving(
    config: ModelConfig, trainable: Trainable, flops: Callable[[int, int], float]
) -> float:
    """The sum over moving matrices of the FLOPs that their inputs and outputs take."""
    shapes = matrix_shapes(config)
    each = sum(flops(*shapes[name]) for name in trainable.matrices or shapes)
    return (config.num_layers - trainable.first_layer) * each


def newton_schulz_flops(
    config: ModelConfig, trainable: Trainable, iterations: int
) -> float:
    """FLOPs of orthogonalising the moving matrices, all seven where everything moves."""

    def of_matrix(*shape):
        small, large = sorted(shape)
        return 2.0 * iterations * (2 * small**2 * large + small**3)

    return _of_moving(config, trainable, of_matrix)


def solve_flops(
    config: ModelConfig, trainable: Trainable, of_outputs: bool = False
) -> float:
    """FLOPs of solving with Cholesky factors for all moving matrices: two triangular
    solves by whole blocks of the inputs' width, 2 inputs^2 outputs each.

    Args:
      of_outputs: of the products with inverses of the outputs' width instead, 2 outputs^2
        inputs.
    """
    each = lambda rows, cols: (
        2.0 * cols**2 * rows if of_outputs else 4.0 * rows**2 * cols
    )
    return _of_moving(config, trainable, each)


def sketch_flops(
    config: ModelConfig, trainable: Trainable, columns: int, iterations: int
) -> float:
    """FLOPs of the products of all moving matrices with their sketches; see
    `optim.linalg.svd.randomised_svd`.

    Two, and two for each iteration; the decompositions of thin matrices are left out.
    """
    products = 2 + 2 * iterations
    return _of_moving(
        config, trainable, lambda rows, cols: products * 2.0 * rows * cols * columns
    )
