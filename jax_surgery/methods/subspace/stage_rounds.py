# SPDX-License-Identifier: Apache-2.0
"""The rounds of a stage: targets are removed or added, and other groups retained."""

from typing import Any, NamedTuple

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import learn, rounds
from jax_surgery.methods.subspace.batches import WeightedBatches
from jax_surgery.methods.subspace.knowledge import knowledge_hooks, no_knowledge
from jax_surgery.methods.subspace.one_shot import one_shot
from jax_surgery.methods.subspace.stage import Stage, copied, rounds_of
from jax_surgery.optim.precondition import discriminate
from jax_surgery.train.loop import train

CUT_EVERY = 3  # rounds between cuts of the change to its rank
MEND_ROUNDS = 4  # of a pass that restores retained answers


class Mending(NamedTuple):
    """Rounds that restore retained answers which other rounds have cost.

    Attributes:
      params: where they begin; given up, as `knowledge` is.
      knowledge: what is known of the retained groups.
      lost: places in `Stage.retained_text` of what they cost.
      inactive: whether the targets' tokens have no weight.
      share: of the step that the run's settings say.
      directory: for checkpoints and metrics.
      saves: whether the pass is saved when it ends.
    """

    params: Any
    knowledge: discriminate.Knowledge
    lost: np.ndarray
    inactive: bool
    share: float
    directory: str
    saves: bool


def run_rounds(stage: Stage) -> Any:
    """The parameters after a stage's rounds, or after its single subtraction."""
    if stage.work.how.subspace.one_shot:
        return one_shot(stage)
    return in_rounds(stage)[0]


def in_rounds(
    stage: Stage, mending: Mending | None = None
) -> tuple[Any, discriminate.Knowledge]:
    """The parameters after as many rounds as the goal needs, and what was known of the
    retained groups in the last of them.

    Args:
      stage: where they begin, and what they remove or add.
      mending: rounds that are all taken, of smaller steps, from somewhere else.
    """
    work, settings = stage.work, stage.work.how
    how, lost = rounds_of(work), mending.lost if mending else ()
    batches = WeightedBatches(
        stage, stage.targets, learn=stage.learns, guarded=True, lost=lost
    )
    if mending and mending.inactive:
        batches.deactivate()
    until = None
    base = how.trainable.take(work.model.params)
    cut = settings.rounds.rank

    def trimmed(params: Any) -> Any:
        return learn.truncated(params, base, cut, how.trainable) if cut else params

    def one_round(state: rounds.State, batch: Batch):
        state, metrics = rounds.take_round(how, state, batches.batch(batch))
        if cut and int(state.count) % CUT_EVERY == 0:
            state = state._replace(params=trimmed(state.params))
        return state, metrics

    if settings.rounds.stop and not mending:

        def until(number: int, state: rounds.State, metrics: dict[str, float]) -> bool:
            if cut and number % CUT_EVERY:
                return False  # what is not cut yet says too much
            return stage.goal.reached(state.params)

    hooks = []
    if mending:
        how = how._replace(order="joint")  # a pass is too short for turns
        start = rounds.begin(how, mending.params, mending.knowledge, mending.share)
    else:
        start = rounds.begin(how, copied(stage.params), no_knowledge(stage, how))
        hooks = knowledge_hooks(stage, how, stage.params is work.model.params)
    title = "restore" if mending else "learn" if stage.learns else "unlearn"
    state = train(
        one_round,
        start,
        batches.stream(),
        steps=MEND_ROUNDS if mending else how.number,
        directory=mending.directory if mending else stage.directory,
        settings=settings.loop,
        hooks=hooks,
        title=f"{title} {', '.join(stage.targets)}",
        until=until,
        save_last=not mending or mending.saves,
        advice=rounds.ADVICE,
    )
    return trimmed(state.params), state.knowledge
