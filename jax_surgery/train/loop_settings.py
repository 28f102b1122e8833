# SPDX-License-Identifier: Apache-2.0
"""Settings of the training loop that runs share."""

import dataclasses

from jax_surgery.config import at_least


@dataclasses.dataclass(frozen=True)
class Loop:
    """How often a run logs, evaluates and saves, and what stops it."""

    log_every: int = 1  # steps
    evaluate_every: int = 0  # steps; 0 only before and after
    evaluate_questions: int = 200  # a group, in evaluations during the run
    checkpoint_every: int = 100  # steps; 0 only at the end and when interrupted
    keep: int = 2  # checkpoints
    explode_factor: float = 20.0  # stop when loss exceeds this many times its start

    def __post_init__(self):
        every = ("evaluate_every", "evaluate_questions", "checkpoint_every")
        at_least(0, self, "config.loop", *every)
        at_least(1, self, "config.loop", "log_every", "keep", "explode_factor")
