# SPDX-License-Identifier: Apache-2.0
"""Hardening: the targets are removed from copies that have relearned them, too.

A model from which a task was removed often says all of it again after a few steps of
training on half of it. So a copy is trained on one half of the targets' text, rounds
remove the task from the copy, and what they changed is added to the model as well; then
another copy, on the other half.
"""

from typing import Any, NamedTuple

from etils import epath

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import changes, knowledge, rounds
from jax_surgery.methods.subspace.stage import Stage, copied
from jax_surgery.methods.subspace.text import WeightedBatches
from jax_surgery.models.trainable import Matrices
from jax_surgery.parallel import progress
from jax_surgery.train import finetune
from jax_surgery.train.loop import Callback, train

RELEARN_STEPS = 10  # of Adam, in which a copy relearns half of the text
ROUNDS = 6  # of removal from each copy


class Beside(NamedTuple):
    """A model and its relearned copy.

    Attributes:
      copy: the rounds' state of the copy.
      params: of the model, as it was when the copy was made.
      began: the copy's moving matrices then.
    """

    copy: rounds.State
    params: Any
    began: Matrices


def harden(stage: Stage, params: Any) -> Any:
    """The parameters after removals from relearned copies.

    Args:
      stage: whose targets are removed already.
      params: parameters after that removal; donated.
    """
    settings = stage.work.how
    method = settings.subspace
    how = rounds.of(stage.work)._replace(number=method.harden * ROUNDS)
    batches = stage.batches()

    def one_round(state: Beside, batch: Batch):
        copy, metrics = rounds.take_round(how, state.copy, batches.batch(batch))
        return state._replace(copy=copy), metrics

    def next_copy(number: int, state: Beside) -> Beside:
        params = _caught_up(how, state) if number else state.params
        relearned = _relearn(stage, params, number // ROUNDS)
        # Not the copy's own arrays: a round gives those up.
        began = copied(how.trainable.take(relearned))
        return Beside(state.copy._replace(params=relearned), params, began)

    def of_chosen(callback: Callback) -> Callback:
        """Statistics are those of the model, or of its copy."""

        def run(number: int, state: Beside) -> Beside:
            read = state.copy
            if method.harden_statistics == "model":
                read = read._replace(params=state.params)
            found = callback.run(number, read)
            return state._replace(copy=state.copy._replace(knowledge=found.knowledge))

        return Callback(ROUNDS, run)

    refreshes = map(of_chosen, knowledge.callbacks(stage, initial=False))
    start = rounds.begin(how, copied(params), knowledge.no_knowledge(stage))
    state = train(
        one_round,
        Beside(start, params, copied(how.trainable.take(params))),
        batches.stream(),
        steps=how.number,
        directory=str(epath.Path(stage.directory) / "harden"),
        settings=settings.loop,
        callbacks=[Callback(ROUNDS, next_copy), *refreshes],
        title=f"relearned copies of {', '.join(stage.targets)}",
        advice=rounds.ADVICE,
    )
    return _caught_up(how, state)


def _caught_up(how: rounds.Rounds, state: Beside) -> Any:
    """The model with what rounds have changed in its copy."""
    found = changes.change_of(state.copy.params, state.began, how.trainable)
    return changes.moved(state.params, found, how.trainable)


def _relearn(stage: Stage, params: Any, number: int) -> Any:
    """A copy that was trained on one half of the targets' text, or on the other."""
    work = stage.work
    batches = WeightedBatches(
        work, stage.targets, learn=True, half=number % 2, seed=number
    )
    params = copied(params)
    state = finetune.init_adam(params)
    how = (work.model.config, work.model.compute, work.how.subspace.harden_rate)
    stream = batches.stream()
    steps = range(RELEARN_STEPS)
    for _ in progress.Bar(steps, title="a copy relearns the targets", unit="step"):
        batch = batches.batch(next(stream))
        text = batch.text.replace(weights_BT=-batch.token_weights_BT)
        params, state = finetune.adam_step(*how, params, state, text)
    return params
