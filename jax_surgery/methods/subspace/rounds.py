# SPDX-License-Identifier: Apache-2.0
"""A round: identify, discriminate, step; shared by removing and learning.

    W <- W - s ||W_0|| T' / ||T'||           norms over all moving matrices together

A round moves a little, and the next one identifies the task in the weights that it
left: so that the overshoot of a single large step is corrected along the way.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import identify
from jax_surgery.methods.subspace.changes import moved
from jax_surgery.methods.subspace.work import Work
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.precondition import discriminate
from jax_surgery.optim.precondition.directions import of_norm
from jax_surgery.parallel import host_memory
from jax_surgery.parallel import mesh as meshes

GRAM_SCHMIDT_RANK = 16  # singular vectors of each task that Gram-Schmidt takes
# What rounds that diverge are told to change: they have a size of their own.
ADVICE = "Lower config.rounds.step"


class Rounds(NamedTuple):
    """How rounds are taken; hashable.

    Attributes:
      config, compute, trainable: of the model, and what of it moves.
      loss: see `identify.TaskLoss`.
      number: of rounds at most.
      step: of the first, relative to the norm of the moving matrices.
      decay: whether steps fall to 0 along a half cosine.
      order: of the layers, see `identify.layer_share`.
      adam: steps are Adam's of this rate, not normalised (the paper's training; for
        comparison); 0 for plain ones.
    """

    config: ModelConfig
    compute: decoder.Compute
    trainable: Trainable
    loss: identify.TaskLoss
    number: int
    step: float
    decay: bool
    order: str
    adam: float = 0.0


def of(work: Work) -> Rounds:
    """How a run's settings take rounds."""
    method, chosen = work.how.subspace, work.how.rounds
    return Rounds(
        work.model.config,
        work.model.compute,
        work.trainable,
        identify.TaskLoss(method.loss, method.temperature),
        chosen.number,
        chosen.step,
        method.cosine,
        method.order,
        method.adam,
    )


class State(NamedTuple):
    """What rounds change.

    Attributes:
      params: the model's.
      count: rounds taken.
      size: s ||W_0||, the norm of a step of constant size.
      knowledge: what is known of the retained tasks.
      adam: Adam's state of each layer, () without.
    """

    params: Any
    count: jax.Array
    size: jax.Array
    knowledge: discriminate.Knowledge
    adam: Any


def begin(
    how: Rounds, params: Any, knowledge: discriminate.Knowledge = (), share: float = 1.0
) -> State:
    """The state before the first round.

    Args:
      share: factor on the step of `how`; Adam's steps ignore it.
    """
    matrices = how.trainable.take(params)
    # Each layer has its own: what it counts are the rounds in which the layer moves.
    adam = jax.vmap(optax.adam(how.adam).init)(matrices) if how.adam else ()
    size = share * how.step * optax.tree.norm(matrices)
    return State(params, jnp.zeros((), jnp.int32), size, knowledge, adam)


def _chosen(share_L: jax.Array, moving: Any, resting: Any) -> Any:
    """The first tree's arrays [layers, ...] in layers that move, else the second's."""

    def of(one, other):
        return jnp.where(share_L.reshape(-1, *[1] * (one.ndim - 1)) > 0, one, other)

    return jax.tree.map(of, moving, resting)


def take_round(
    how: Rounds, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    """One round; `state` is donated.

    Args:
      batch: packed rows with `token_weights_BT` and `target_log_odds_BT`.

    Returns:
      (state, `pull`'s sums with the loss and ||T'||: 0 where no token has a gradient).
    """
    return program(meshes.platform())(how, state, batch)


@functools.cache
def program(platform: str) -> Any:
    """`take_round` compiled for a platform."""
    options = host_memory.memory_first(platform)

    @functools.partial(
        jax.jit, static_argnums=0, donate_argnums=1, compiler_options=options
    )
    def take_round(how: Rounds, state: State, batch: Batch):
        return _round(how, state, batch)

    return take_round


def _round(
    how: Rounds, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    task, metrics = identify.task_matrix(
        state.params, how.config, batch, how.loss, how.compute, how.trainable
    )
    layers = len(next(iter(task.values())))
    share_L = identify.layer_share(how.order, layers, state.count, how.number)
    task = {name: share_L[:, None, None] * matrix for name, matrix in task.items()}
    task = discriminate.discriminate(task, state.knowledge, GRAM_SCHMIDT_RANK)
    adam = state.adam
    if how.adam:
        change, new = jax.vmap(optax.adam(how.adam).update)(task, adam)
        change = _chosen(share_L, change, jax.tree.map(jnp.zeros_like, change))
        adam = _chosen(share_L, new, adam)
    else:
        size = state.size
        if how.decay:
            size *= 0.5 * (1 + jnp.cos(jnp.pi * state.count / how.number))
        change = of_norm(task, -size)
    params = moved(state.params, change, how.trainable)
    after = state._replace(params=params, count=state.count + 1, adam=adam)
    return sharding.constrain(after), metrics | {"task_norm": optax.tree.norm(task)}
