# SPDX-License-Identifier: Apache-2.0
"""Directions that leave alone what the retained text uses.

For a weight matrix W with y = x W, let A = E[x x^T] over the retained text. A change
W <- W - D changes y on that text by x D, of mean square tr(D^T A D). With
L L^T = A / tau + ridge I (`ridge`), and G the gradient:

    natural:     D = L^-T L^-1 G         the best progress for that mean square
    orthogonal:  D = L^-T sign(L^-1 G)   the best progress for the largest singular
                                         value of L^T D, the change on whitened inputs

where sign(U diag(s) V^T) = U V^T. The first is the input factor of Kronecker-factored
curvature. The second is Muon's step (Jordan et al. 2024) in the inputs' own metric: it
moves every direction of the gradient alike, so that a fact that few tokens state moves
as far as one that many do.

Any other root S of the inverse, S^T S = (A / tau + ridge I)^-1, gives the same: it is
S = Q L^-1 with Q orthogonal, and S^T sign(S G) = L^-T Q^T sign(Q L^-1 G).
"""

from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.linalg import cholesky
from jax_surgery.optim.newton_schulz import orthogonalise
from jax_surgery.optim.precondition import ridge


def natural(gradients: Matrices, factors: ridge.Factors) -> Matrices:
    """L^-T L^-1 G of every matrix."""
    return ridge.solve(factors, gradients)


def orthogonal(gradients: Matrices, factors: ridge.Factors) -> Matrices:
    """L^-T sign(L^-1 G) of every matrix."""

    def of_layer(lower_XX, gradient_XY):
        white_XY = orthogonalise(cholesky.solve_lower(lower_XX, gradient_XY))
        return cholesky.solve_lower(lower_XX, white_XY, transposed=True)

    return ridge.of_each(of_layer, factors, gradients)
