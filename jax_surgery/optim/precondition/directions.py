# SPDX-License-Identifier: Apache-2.0
"""Steps along directions that leave alone what the retained text uses.

For a weight matrix W with y = x W, let A = E[x x^T] over the retained text. A change
W <- W - D changes y on that text by x D, of mean square tr(D^T A D). With
L L^T = A / tau + ridge I (`ridge`), and G the gradient:

    natural:     D = L^-T L^-1 G         the best progress for that mean square
    orthogonal:  D = L^-T sign(L^-1 G)   the best progress for the largest singular
                                         value of L^T D, the change on whitened inputs

    kfac:        D = L^-T L^-1 G S^-1     the best progress for the KL that it costs, as far
                                         as inputs and gradients do not depend on each other

where sign(U diag(s) V^T) = U V^T. The first is the input factor of Kronecker-factored
curvature, the third has both (Martens and Grosse 2015): S is the second moment of the
gradients of y, with a ridge (`ridge.of_outputs`). The second is Muon's step (Jordan et al. 2024) in the inputs' own metric: it
moves every direction of the gradient alike, so that a fact that few tokens state moves
as far as one that many do.

Any other root S of the inverse, S^T S = (A / tau + ridge I)^-1, gives the same: it is
S = Q L^-1 with Q orthogonal, and S^T sign(S G) = L^-T Q^T sign(Q L^-1 G).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.models.trainable import Matrices, Trainable
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


def kfac(gradients: Matrices, factors: ridge.Factors) -> Matrices:
    """L^-T L^-1 G S^-1 of every matrix."""
    return ridge.solve_outputs(factors, ridge.solve(factors, gradients))


DIRECTIONS = {"natural": natural, "orthogonal": orthogonal, "kfac": kfac}
OF_OUTPUTS = ("kfac",)  # those that need moments of the outputs' gradients
OF_SIGNS = ("orthogonal",)  # those that are as long whatever the gradient's length


class PreconditionedState(NamedTuple):
    """State of `preconditioned_steps`.

    Attributes:
      count: steps taken.
      weight_norm: of all moving matrices together, before the first step.
      velocity: momentum of the matrices' gradients, or () without.
      factors: of `ridge.factorise`; the identity until they are set. They are part of
        the state so that a resumed run is bit-equal.
    """

    count: jax.Array
    weight_norm: jax.Array
    velocity: Any
    factors: ridge.Factors


def of_norm(matrices: Matrices, size: jax.Array) -> Matrices:
    """The matrices times a number, so that their norm together is |`size`|; zeros stay.

    Args:
      size: below 0 turns them round.
    """
    return of_length(matrices, optax.tree.norm(matrices), size)


def of_length(matrices: Matrices, length: jax.Array, size: jax.Array) -> Matrices:
    """The matrices times a number, so that what is their `length` becomes |`size`|.

    Args:
      length: in some norm; with 0 they become 0.
      size: below 0 turns them round.
    """
    scale = jnp.where(length > 0, size / jnp.where(length > 0, length, 1.0), 0.0)
    return jax.tree.map(lambda matrix: scale * matrix, matrices)


def preconditioned_steps(
    direction: str,
    schedule: optax.Schedule,
    momentum: float,
    trainable: Trainable,
    own_metric: bool = False,
) -> optax.GradientTransformation:
    """W <- W - s_t ||W_0|| D / ||D||, norms over all moving matrices together; or
    W <- W - s_t D / sqrt(<D, G>), and of directions `OF_SIGNS` W <- W - s_t D.

    D is the direction of the gradient, or of its moving sum v <- momentum v + G,
    under the state's factors. A zero gradient (everything forgotten and learned)
    makes no step.

    Args:
      direction: in `DIRECTIONS`.
      own_metric: whether the length of steps is measured by the factors, as
        sqrt(<D, G>) is of D = C^-1 G and the metric C (natural, kfac), and as a
        direction of signs has it by itself (orthogonal); else by the weights.
    """

    def init(params):
        matrices = trainable.take(params)
        return PreconditionedState(
            jnp.zeros((), jnp.int32),
            optax.tree.norm(matrices),
            jax.tree.map(jnp.zeros_like, matrices) if momentum else (),
            ridge.identity(matrices, outputs=direction in OF_OUTPUTS),
        )

    def update(updates, state, params=None):
        del params
        moving, velocity = trainable.take(updates), state.velocity
        if momentum:
            velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, moving)
            moving = velocity
        steps = DIRECTIONS[direction](moving, state.factors)
        size = jnp.asarray(schedule(state.count))
        if own_metric and direction in OF_SIGNS:
            steps = jax.tree.map(lambda matrix: -size * matrix, steps)
        elif own_metric:
            length = jnp.sqrt(jnp.maximum(optax.tree.vdot(steps, moving), 0))
            steps = of_length(steps, length, -size)
        else:
            steps = of_norm(steps, -size * state.weight_norm)
        state = state._replace(count=state.count + 1, velocity=velocity)
        return trainable.put(steps, updates), state

    return optax.GradientTransformation(init, update)
