# SPDX-License-Identifier: Apache-2.0
"""The share of the change that is made: alpha of W' = W + alpha T'."""

from collections.abc import Callable
from typing import Any

from jax_surgery.methods.subspace.goal import Goal
from jax_surgery.methods.subspace.stage import Stage

# Alphas that are sought: the largest, of one shot, and how finely.
LARGEST, FINEST = 4.0, 2**-10


def choose_alpha(
    stage: Stage, targets: list[str], initial: Any, at: Callable[[float], Any]
) -> float:
    """`rounds.alpha`; where it is 0, the smallest at which the targets of all stages
    reach `rounds.stop`, by bisection.

    Rounds end at alpha 1, where retained groups were guarded; only what was identified in
    one shot is taken further.

    Args:
      stage: the last.
      targets: of all stages.
      initial: parameters before the run.
      at: parameters of an alpha.

    Raises:
      ValueError: one shot, and no alpha reaches the stop.
    """
    settings = stage.work.how
    stop = settings.rounds.stop
    if settings.rounds.alpha:
        return settings.rounds.alpha
    goal = Goal(stage.work, targets, stage.before, initial, learns=stage.learns)
    low, high = 0.0, 1.0
    if not goal.reached(at(high)):
        if not settings.subspace.one_shot:
            print(f"alpha=1: not all of {', '.join(targets)} reach config.rounds.stop.")
            return high
        low, high = high, LARGEST
        if not goal.reached(at(high)):
            raise ValueError(
                f"config.rounds.alpha=0: no alpha up to {high} reaches "
                f"config.rounds.stop={stop}; lower it, or name an alpha."
            )
    while high - low > FINEST:
        middle = (low + high) / 2
        low, high = (low, middle) if goal.reached(at(middle)) else (middle, high)
    return high
