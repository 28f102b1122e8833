# SPDX-License-Identifier: Apache-2.0
"""A stage ends where its targets are gone, or learned, and kept answers are right."""

import math
from typing import Any

from etils import epath

from jax_surgery.runs.subspace.operate import Mending, Stage, in_rounds

# Of the step: in the first pass, and of the one before after a pass that did not help.
SHARE, FALL = 0.5, 0.7


def mend(stage: Stage, params: Any) -> Any:
    """The parameters after `rounds.mend` passes at most, of `rounds.mend_rounds` each.

    A pass guards texts whose answers were lost as much as all other kept ones, while
    the targets are pushed on as before.

    Args:
      stage: whose rounds are taken.
      params: after them; given up.
    """
    settings = stage.subject.settings
    if settings.rounds.mode == "one_shot" or not settings.rounds.mend or not stage.kept:
        return params
    share, fewest = SHARE, math.inf
    for number in range(settings.rounds.mend):
        lost = stage.kept_text.lost(params)
        if not len(lost) and stage.goal.reached(params):
            return params
        if len(lost) >= fewest:
            share *= FALL
        fewest = min(fewest, len(lost))
        folder = epath.Path(stage.directory) / f"mend_{number + 1}"
        params = in_rounds(stage, Mending(params, lost, share, str(folder)))
    lost = stage.kept_text.lost(params)
    if len(lost):
        print(
            f"{len(lost)} of {len(stage.kept_text.packer.documents)} kept texts still "
            f"have a wrong answer after config.rounds.mend={settings.rounds.mend} passes."
        )
    return params
