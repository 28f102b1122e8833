# SPDX-License-Identifier: Apache-2.0
"""Directions that leave alone what the retained text uses.

For a weight matrix W with y = x W, let A = E[x x^T] over text that must be kept. A
change W <- W - D changes y on that text by x D, of mean square tr(D^T A D). With
S = (A / tau + ridge I)^(-1/2), tau = tr(A) / d, and G the gradient:

    natural:     D = S S G           the best progress for that mean square
    orthogonal:  D = S sign(S G)     the best progress for the largest singular value
                                     of S^-1 D, the change on whitened inputs

where sign(U diag(s) V^T) = U V^T. The first is the input factor of Kronecker-factored
curvature. The second is Muon's step (Jordan et al. 2024) in the inputs' own metric: it
moves every direction of the gradient alike, so that a fact that few tokens state moves
as far as one that many do.
"""

import jax
import jax.numpy as jnp

from jax_surgery.models import layout
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Matrices, Trainable

Moments = dict[str, jax.Array]
Roots = dict[str, jax.Array]

# Which moment each matrix's input has.
INPUT_OF = {name: row.statistic for name, row in layout.MATRICES.items()}

# Muon's quintic iteration, whose slope at 0 is large: five take singular values from
# 0.01 of the largest to about 1 (0.7 to 1.2).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def moment_widths(config: ModelConfig, trainable: Trainable) -> dict[str, int]:
    """Width of each input whose moments the moving matrices need."""
    return layout.statistics(config, trainable.matrices)


def inverse_roots(moments: Moments, ridge: float) -> Roots:
    """S = (A / tau + ridge I)^(-1/2) of each input of each layer, symmetric.

    Args:
      moments: sums (or means) of x x^T over kept text, [layers, d, d] each; their
        scale does not matter.
      ridge: relative to the mean eigenvalue; larger protects kept text less.
    """

    def root(moment_XX):
        tau = jnp.trace(moment_XX) / moment_XX.shape[-1]
        values, vectors = jnp.linalg.eigh(moment_XX / jnp.maximum(tau, 1e-30))
        scaled = vectors * (jnp.maximum(values, 0) + ridge) ** -0.5
        return scaled @ vectors.T

    return jax.tree.map(lambda m: jax.lax.map(root, m), moments)


def identity_roots(matrices: Matrices) -> Roots:
    """Roots that leave gradients as they are."""
    shapes = {INPUT_OF[name]: m.shape[:2] for name, m in matrices.items()}
    return {
        kind: jnp.tile(jnp.eye(width), (layers, 1, 1))
        for kind, (layers, width) in shapes.items()
    }


def natural(gradients: Matrices, roots: Roots) -> Matrices:
    """S S G of every matrix."""
    return {
        name: roots[INPUT_OF[name]] @ (roots[INPUT_OF[name]] @ gradient)
        for name, gradient in gradients.items()
    }


def orthogonal(gradients: Matrices, roots: Roots) -> Matrices:
    """S sign(S G) of every matrix."""
    return {
        name: roots[INPUT_OF[name]] @ orthogonalise(roots[INPUT_OF[name]] @ gradient)
        for name, gradient in gradients.items()
    }


def orthogonalise(matrix_LXY: jax.Array) -> jax.Array:
    """About U V^T for each matrix U diag(s) V^T, by Newton-Schulz iteration.

    Singular values end between 0.7 and 1.2 where they began above about a hundredth
    of the Frobenius norm; a zero matrix stays zero.
    """
    tall = matrix_LXY.shape[-2] > matrix_LXY.shape[-1]
    X = matrix_LXY.swapaxes(-1, -2) if tall else matrix_LXY
    norm = jnp.linalg.norm(X, axis=(-2, -1), keepdims=True)
    X = jnp.where(norm > 0, X / jnp.where(norm > 0, norm, 1.0), 0.0)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = X @ X.swapaxes(-1, -2)
        X = a * X + (b * square + c * square @ square) @ X
    return X.swapaxes(-1, -2) if tall else X
