# SPDX-License-Identifier: Apache-2.0
"""A stage ends where its targets are gone, or learned, and kept answers are right."""

import itertools
import math
from typing import Any

from etils import epath

from jax_surgery.methods.subspace.operate import (
    Mending,
    Stage,
    in_rounds,
    known_of_kept,
)
from jax_surgery.optim.precondition import discriminate

# Of the step: in the first pass, and of the one before after a pass that did not help.
SHARE, FALL = 0.5, 0.7


def mend(stage: Stage, params: Any) -> Any:
    """The parameters after `rounds.mend` passes at most, of `rounds.mend_rounds` each.

    A pass guards texts whose answers were lost as much as all other kept ones, and
    pushes the targets where those are no longer as far as they are to go: to push them
    always would take them far below chance. Where nothing is guarded nothing is mended.

    Args:
      stage: whose rounds are taken.
      params: after them; given up.
    """
    settings = stage.subject.settings
    guarded = bool(stage.kept) and settings.discriminate.guard
    if settings.rounds.mode == "one_shot" or not guarded or not settings.rounds.mend:
        return params
    kept: discriminate.Kept | None = None
    share, fewest = SHARE, math.inf
    for number in itertools.count():
        lost = stage.kept_text.lost(params)
        reached = stage.goal.reached(params)
        if reached and not len(lost):
            return params
        if number == settings.rounds.mend:
            break
        if kept is None:
            kept = known_of_kept(stage, params)
        if len(lost):
            share *= FALL if len(lost) >= fewest else 1.0
            fewest = min(fewest, len(lost))
        folder = epath.Path(stage.directory) / f"mend_{number + 1}"
        how = Mending(params, kept, lost, reached, share, str(folder))
        params, kept = in_rounds(stage, how)
    print(
        f"after config.rounds.mend={settings.rounds.mend} passes {len(lost)} of "
        f"{len(stage.kept_text.packer.documents)} kept texts have a wrong answer that "
        f"was right, and {', '.join(stage.targets)} {'is' if reached else 'is not'} at "
        "config.rounds.stop."
    )
    return params
