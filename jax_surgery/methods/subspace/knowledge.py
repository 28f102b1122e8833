# SPDX-License-Identifier: Apache-2.0
"""What discrimination needs of retained groups: the ridge's factors, or subspaces."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.methods.subspace import identify, rounds, statistics
from jax_surgery.methods.subspace.batches import WeightedBatches
from jax_surgery.methods.subspace.stage import Stage, rounds_of
from jax_surgery.optim.precondition import discriminate
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.optim.precondition.moments import zero_moments
from jax_surgery.train.loop import Hook


def no_knowledge(stage: Stage, how: rounds.Rounds) -> discriminate.Knowledge:
    """What is known of the retained groups, before it is computed: of its shapes."""
    method = stage.work.how.subspace.discriminate
    if method == "none" or (method == "ridge" and not stage.retained):
        return ()
    shapes = jax.eval_shape(lambda: _zero_knowledge(stage, how, method))
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _zero_knowledge(stage: Stage, how: rounds.Rounds, method: str):
    config, ridge = stage.work.model.config, stage.work.how.subspace.ridge
    if method == "ridge":
        return ridges.factorise(zero_moments(config, how.trainable), ridge)
    matrices = how.trainable.take(stage.work.model.params)
    return discriminate.similar_of([matrices] * len(similar_groups(stage)), how.rank)


def similar_groups(stage: Stage) -> list[str]:
    """The similar groups whose subspaces Gram-Schmidt takes out.

    Raises:
      ValueError: there are none.
    """
    near = [name for name in stage.retained if name in stage.similar]
    if not near:
        raise ValueError(
            f"config.method=subspace:discriminate=gram_schmidt needs groups similar to "
            f"{', '.join(stage.targets)}, and there are none: name them in "
            "config.tasks.similar, or use discriminate=ridge."
        )
    return near


def knowledge_hooks(stage: Stage, how: rounds.Rounds, initial: bool) -> list[Hook]:
    """Hooks that compute what is known of retained groups, at first and on refreshes.

    Args:
      initial: whether rounds begin in the initial model, whose statistics are
        cached.
    """
    settings = stage.work.how
    method = settings.subspace.discriminate
    if method == "none" or (method == "ridge" and not stage.retained):
        return []
    if method == "gram_schmidt":
        own = [
            WeightedBatches(stage, [name], learn=False, guarded=False)
            for name in similar_groups(stage)
        ]
        matrix = jax.jit(identify.task_matrix, static_argnums=(1, 3, 4, 5))

        def similar(number: int, state: rounds.State) -> rounds.State:
            found = []
            for batches in own:
                batch = batches.batch(next(batches.stream()))
                arguments = (how.config, batch, how.loss, how.compute, how.trainable)
                found.append(matrix(state.params, *arguments)[0])
            return state._replace(knowledge=discriminate.similar_of(found, how.rank))

        return [Hook(settings.subspace.refresh, similar)]
    return [Hook(settings.subspace.refresh, ridge_hook(stage, initial))]


def knowledge_of(stage: Stage, params: Any) -> discriminate.Knowledge:
    """What rounds that begin in some parameters know of the retained groups."""
    how = rounds_of(stage.work)
    state = rounds.begin(how, params)
    for hook in knowledge_hooks(stage, how, initial=False):
        state = hook.run(0, state)
    return state.knowledge


def ridge_hook(stage: Stage, initial: bool):
    """Factors of the retained groups' second moments at the parameters of a state."""
    work, ridge = stage.work, stage.work.how.subspace.ridge

    def refresh(number: int, state: rounds.State) -> rounds.State:
        if number or not initial:
            moments = statistics.of_params(state.params, work, stage.retained_text)
        else:
            moments = statistics.of_model(work, stage.retained_text, stage.directory)
        knowledge = ridges.checked(moments, ridge, "config.method=subspace:ridge")
        return state._replace(knowledge=knowledge)

    return refresh
