# SPDX-License-Identifier: Apache-2.0
"""A stage ends where retained answers that were right are right again."""

import itertools
import math
from typing import Any

from etils import epath

from jax_surgery.methods.subspace.knowledge import knowledge_of
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.stage_rounds import MEND_ROUNDS, Mending, in_rounds
from jax_surgery.optim.precondition import discriminate

# Of the step: in the first pass, and of the one before after a pass that did not help.
SHARE, FALL = 0.5, 0.7


def mend(stage: Stage, params: Any) -> Any:
    """The parameters after the method's `mend` passes at most, of `MEND_ROUNDS` each.

    A pass guards texts whose answers were lost as much as all other retained ones, and
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
    if settings.subspace.one_shot or not guarded or not settings.subspace.mend:
        return params
    knowledge: discriminate.Knowledge | None = None
    share, fewest = SHARE, math.inf
    for number in itertools.count():
        lost = stage.retained_text.lost(params)
        reached = stage.goal.reached(params)
        if reached and not len(lost):
            return params
        if number == settings.subspace.mend:
            break
        if knowledge is None:
            knowledge = knowledge_of(stage, params)
        if len(lost):
            share *= FALL if len(lost) >= fewest else 1.0
            fewest = min(fewest, len(lost))
        folder = epath.Path(stage.directory) / f"mend_{number + 1}"
        saves = _due(number, settings.loop.checkpoint_every)
        how = Mending(params, knowledge, lost, reached, share, str(folder), saves)
        params, knowledge = in_rounds(stage, how)
    print(
        f"after {settings.subspace.mend} passes (config.method=subspace:mend) {len(lost)} "
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
