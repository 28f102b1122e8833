# SPDX-License-Identifier: Apache-2.0
"""Steps of a stated size along preconditioned directions, as an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.models import layout
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.precondition import ridge
from jax_surgery.parallel import mesh as meshes


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


def preconditioned_steps(
    direction: Callable[[Matrices, ridge.Factors], Matrices],
    schedule: optax.Schedule,
    momentum: float,
    trainable: Trainable,
) -> optax.GradientTransformation:
    """W <- W - s_t ||W_0|| D / ||D||, norms over all moving matrices together.

    D is the direction of the gradient, or of its moving sum v <- momentum v + G,
    under the state's factors. A zero gradient (everything forgotten and learned)
    makes no step.
    """

    def init(params):
        matrices = trainable.take(params)
        return PreconditionedState(
            jnp.zeros((), jnp.int32),
            optax.tree.norm(matrices),
            jax.tree.map(jnp.zeros_like, matrices) if momentum else (),
            ridge.identity(matrices),
        )

    def update(updates, state, params=None):
        del params
        moving, velocity = trainable.take(updates), state.velocity
        if momentum:
            velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, moving)
            moving = velocity
        steps = direction(moving, state.factors)
        norm = optax.tree.norm(steps)
        size = schedule(state.count) * state.weight_norm
        scale = jnp.where(norm > 0, -size / jnp.where(norm > 0, norm, 1.0), 0.0)
        steps = {
            # As its parameter lies, or the compiler makes copies on every device.
            name: meshes.constrain(scale * step, *layout.MATRICES[name].stack_spec)
            for name, step in steps.items()
        }
        state = state._replace(count=state.count + 1, velocity=velocity)
        return trainable.put(steps, updates), state

    return optax.GradientTransformation(init, update)
