# SPDX-License-Identifier: Apache-2.0
"""Settings of the training loop that runs share."""

import dataclasses

from jax_surgery.config import at_least


@dataclasses.dataclass(frozen=True)
class Loop:
    """How often a run logs, evaluates and saves, and what stops it."""

    log_every: int  # steps
    evaluate_every: int  # steps; 0 only before and after
    evaluate_questions: int  # a group, in evaluations during the run
    checkpoint_every: int  # steps; 0 only at the end and when interrupted
    keep: int  # checkpoints

    def __post_init__(self):
        every = ("evaluate_every", "evaluate_questions", "checkpoint_every")
        at_least(0, self, "config.loop", *every)
        at_least(1, self, "config.loop", "log_every", "keep")
