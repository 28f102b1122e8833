# SPDX-License-Identifier: Apache-2.0
"""One subtraction of a task that was learned before, as UNLEARN's paper does."""

from typing import Any

import optax
from etils import epath

from jax_surgery.methods.subspace import learn, rounds
from jax_surgery.methods.subspace.batches import WeightedBatches
from jax_surgery.methods.subspace.knowledge import ridge_hook, similar_groups
from jax_surgery.methods.subspace.remove import remove
from jax_surgery.methods.subspace.stage import (
    GRAM_SCHMIDT_RANK,
    Stage,
    copied,
    rounds_of,
)
from jax_surgery.models import decoder
from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.precondition import discriminate
from jax_surgery.train.loop import train


def one_shot(stage: Stage) -> Any:
    """W' = W - alpha T' with T from rounds of learning the task, as the paper does."""
    work, settings = stage.work, stage.work.how
    how = rounds_of(work)
    task = _bootstrap(stage, stage.targets, how, "target")
    method = settings.subspace.discriminate
    knowledge: discriminate.Knowledge = ()
    if method == "gram_schmidt":
        rank = GRAM_SCHMIDT_RANK
        similar = [
            _bootstrap(stage, [name], how, name) for name in similar_groups(stage)
        ]
        knowledge = discriminate.similar_of(similar, rank)
        task = discriminate.discriminate(task, knowledge, rank)
    elif method == "ridge" and stage.retained:
        state = ridge_hook(stage, stage.params is work.model.params)(
            0, rounds.begin(how, stage.params)
        )
        task = discriminate.discriminate(task, state.knowledge)
    if settings.rounds.rank:
        task = learn.product(learn.factors(task, settings.rounds.rank))
    apply = learn.learn if stage.learns else remove
    return apply(stage.params, task, 1.0, how.trainable)


def _bootstrap(
    stage: Stage, names: list[str], how: rounds.Rounds, title: str
) -> Matrices:
    """T: what the moving matrices become where tasks are learned in rounds."""
    work, settings = stage.work, stage.work.how
    start = stage.params
    if settings.subspace.random_start:
        start = decoder.init_params(work.model.config, settings.seed)
    base = how.trainable.take(start)
    batches = WeightedBatches(stage, names, learn=True, guarded=False)
    state = train(
        lambda state, batch: rounds.take_round(how, state, batches.batch(batch)),
        rounds.begin(how, copied(start)),
        batches.stream(),
        steps=how.number,
        directory=str(epath.Path(stage.directory) / f"identify_{title}"),
        settings=settings.loop,
        title=f"identify {', '.join(names)}",
        advice=rounds.ADVICE,
    )
    task = rounds.change_of(state.params, base, how.trainable)
    if not float(optax.tree.norm(task)):
        raise ValueError(
            f"the task matrix of {title} {', '.join(names)} is 0: the model knows it too "
            "well for the loss 'margin' to teach it anything; use "
            "config.method=subspace:one_shot=True,loss=cross_entropy."
        )
    return task
