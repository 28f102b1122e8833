# SPDX-License-Identifier: Apache-2.0
"""Settings of the training loop that runs share, and checks of numbers."""

import dataclasses
from typing import Any


def at_least(low: float, section: Any, path: str, *names: str) -> None:
    """Raises ValueError where one of a section's numbers is below `low`."""
    for name in names:
        if (value := getattr(section, name)) < low:
            raise ValueError(f"{path}.{name}={value}; use {low:g} or more.")


def positive_ridge(ridge: float, path: str) -> None:
    """Raises ValueError where a ridge (relative to the mean eigenvalue) is not above 0."""
    if ridge <= 0:
        raise ValueError(
            f"{path}.ridge={ridge} must be positive: without it directions that kept "
            "text never uses have no bound."
        )


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long, how often, and what stops a run."""

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
