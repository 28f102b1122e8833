# SPDX-License-Identifier: Apache-2.0
"""How a stage changes the parameters: in rounds, or by a single subtraction.

Further rounds restore retained answers that the first ones have cost. The subtraction,
UNLEARN's as its paper has it, is of a task that was learned before.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from etils import epath

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import changes, knowledge, rounds
from jax_surgery.methods.subspace.stage import Stage, copied
from jax_surgery.methods.subspace.text import WeightedBatches
from jax_surgery.models import decoder
from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.precondition import discriminate
from jax_surgery.parallel import host_memory, progress
from jax_surgery.train.loop import Callback, train

CUT_EVERY = 3  # rounds between cuts of the change to its rank
MEND_ROUNDS = 4  # of a pass that restores retained answers
# Of the step: in the first pass, and of the one before after a pass that did not help.
SHARE, FALL = 0.5, 0.7


def _take(
    stage: Stage,
    how: rounds.Rounds,
    state: rounds.State,
    batches: WeightedBatches,
    *,
    steps: int,
    directory: str,
    title: str,
    stop: bool = False,
    callbacks: Sequence[Callback] = (),
    save_last: bool = True,
) -> rounds.State:
    """The state after rounds, with the change from the initial model cut to its rank.

    Args:
      steps: rounds at most.
      stop: whether they end at the stage's goal.
      callbacks, save_last: see `loop.train`.
    """
    cut = stage.work.rank
    base = how.trainable.take(stage.work.model.params)

    def trimmed(state: rounds.State) -> rounds.State:
        if not cut:
            return state
        params = changes.truncated(state.params, base, cut, how.trainable)
        jax.block_until_ready(params)
        # Other programs run between rounds, and each leaves pieces of its own.
        host_memory.release_freed_memory()
        return state._replace(params=params)

    def one_round(state: rounds.State, batch: Batch):
        state, metrics = rounds.take_round(how, state, batches.batch(batch))
        if cut and int(state.count) % CUT_EVERY == 0:
            state = trimmed(state)
        return state, metrics

    def until(number: int, state: rounds.State, metrics: dict[str, float]) -> bool:
        if cut and number % CUT_EVERY:
            return False  # what is not cut yet says too much
        reached = stage.goal.reached(state.params)
        host_memory.release_freed_memory()
        return reached

    state = train(
        one_round,
        state,
        batches.stream(),
        steps=steps,
        directory=directory,
        settings=stage.work.how.loop,
        callbacks=callbacks,
        title=f"{title} {', '.join(stage.targets)}",
        until=until if stop else None,
        save_last=save_last,
        advice=rounds.ADVICE,
        collapsed=lambda state: stage.collapsed(state.params),
    )
    return trimmed(state)


def run_rounds(stage: Stage) -> Any:
    """The parameters after as many rounds as the goal needs."""
    work, how = stage.work, rounds.of(stage.work)
    return _take(
        stage,
        how,
        rounds.begin(how, copied(stage.params), knowledge.no_knowledge(stage)),
        stage.batches(),
        steps=how.number,
        directory=stage.directory,
        title="learn" if stage.learns else "unlearn",
        stop=bool(work.how.rounds.stop),
        callbacks=[
            *knowledge.callbacks(stage, initial=stage.params is work.model.params),
            *stage.callbacks,
        ],
    ).params


def mend(stage: Stage, params: Any) -> Any:
    """The parameters after the method's `mend` passes at most, of `MEND_ROUNDS` each.

    A stage ends where retained answers that were right are right again. A pass guards
    texts whose answers were lost as much as all other retained ones, and
    gives the targets weight only where they are no longer at their goal: with weight in
    every pass they would end far below chance. Where nothing is guarded
    nothing is restored. Passes are saved as often as `loop.checkpoint_every` says, their
    rounds counted on: passes that are not saved are taken again by a resumed run.

    Args:
      stage: whose rounds are taken.
      params: parameters after the rounds; donated.
    """
    settings = stage.work.how
    guarded = bool(stage.retained) and settings.subspace.guard
    if not guarded or not stage.mend:
        return params
    how = rounds.of(stage.work)._replace(order="joint")  # too few for turns
    known: discriminate.Knowledge | None = None
    share, fewest = SHARE, math.inf
    for number in itertools.count():
        with progress.phase("looking for retained answers that were lost"):
            lost = stage.retained_text.lost(params)
        reached = stage.goal.reached(params)
        if reached and not len(lost):
            return params
        if number == stage.mend:
            break
        if known is None:
            known = knowledge.finder(stage)(params)
        if len(lost):
            share *= FALL if len(lost) >= fewest else 1.0
            fewest = min(fewest, len(lost))
        batches = stage.batches(lost)
        if reached:
            batches.deactivate()
        state = _take(
            stage,
            how,
            rounds.begin(how, params, known, share),
            batches,
            steps=MEND_ROUNDS,
            directory=str(epath.Path(stage.directory) / f"mend_{number + 1}"),
            title="restore",
            save_last=_due(number, settings.loop.checkpoint_every),
        )
        params, known = state.params, state.knowledge
    print(
        f"after {stage.mend} passes (config.method=subspace:mend) {len(lost)} "
        f"of {len(stage.retained_text.packer.documents)} retained texts have a wrong "
        f"answer that was right, and {', '.join(stage.targets)} "
        f"{'is' if reached else 'is not'} at config.rounds.stop."
    )
    return params


def _due(number: int, every: int) -> bool:
    """Whether a checkpoint falls into pass `number`, of one every `every` rounds."""
    if not every:
        return False
    return (number + 1) * MEND_ROUNDS // every > number * MEND_ROUNDS // every


def one_shot(stage: Stage) -> Any:
    """W' = W - alpha T' with T from rounds of learning the task, as the paper does."""
    work, rank = stage.work, stage.work.rank
    task, kind = _bootstrap(stage, stage.targets, "target"), knowledge.kind_of(stage)
    known: discriminate.Knowledge = ()
    if kind == "gram_schmidt":
        near = knowledge.similar_groups(stage)
        similar = [_bootstrap(stage, [name], name) for name in near]
        known = discriminate.similar_of(similar, rounds.GRAM_SCHMIDT_RANK)
    elif kind == "ridge":
        cached = stage.params is work.model.params
        known = knowledge.ridge_of(stage, stage.params, cached=cached)
    task = discriminate.discriminate(task, known, rounds.GRAM_SCHMIDT_RANK)
    if rank:
        task = changes.product(changes.factors(task, rank))
    alpha = 1.0 if stage.learns else -1.0
    return changes.added(stage.params, task, alpha, work.trainable)


def _bootstrap(stage: Stage, names: list[str], title: str) -> Matrices:
    """T: what the moving matrices become where tasks are learned in rounds."""
    work, settings, how = stage.work, stage.work.how, rounds.of(stage.work)
    start = stage.params
    if settings.subspace.random_start:
        start = decoder.init_params(work.model.config, settings.seed)
    base = how.trainable.take(start)
    batches = WeightedBatches(work, names, learn=True)
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
    task = changes.change_of(state.params, base, how.trainable)
    if not float(optax.tree.norm(task)):
        raise ValueError(
            f"the task matrix of {title} {', '.join(names)} is 0: the model knows it too "
            "well for the loss 'margin' to teach it anything; use "
            "config.method=subspace:one_shot=True,loss=cross_entropy."
        )
    return task
