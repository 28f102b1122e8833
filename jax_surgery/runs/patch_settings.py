# SPDX-License-Identifier: Apache-2.0
"""Settings of the run that works on edit files."""

import dataclasses
import math

# The fields that each action reads.
ACTIONS = {
    "apply": ("edits", "model", "scale"),
    "rollback": ("edits", "model"),
    "scale": ("edits", "scale"),
    "compose": ("edits", "rank"),
    "show": ("edits",),
}
# What a field must be where the action does not read it.
UNUSED = {"edits": "", "model": "", "scale": 1.0, "rank": 0}


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """What to do with which edit files (`run = "edit"`)."""

    run: str
    action: str  # or "apply", "rollback", "scale", "compose"
    edits: str  # files of edits, comma-separated
    model: str  # "embedded", "suite", a directory, or a hub name
    scale: float  # factor on the edit's change
    rank: int  # highest rank of a composed edit; 0 keeps it exact

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise ValueError(
                f"config.action={self.action!r}; choose one of {', '.join(ACTIONS)}."
            )
        if self.rank < 0:
            raise ValueError(f"config.rank={self.rank} must be 0 or more.")
        if not math.isfinite(self.scale):
            raise ValueError(f"config.scale={self.scale} must be a finite number.")
        for name, unused in UNUSED.items():
            value = getattr(self, name)
            if name not in ACTIONS[self.action] and value != unused:
                raise ValueError(
                    f"config.{name}={value!r}: action {self.action!r} does not "
                    f"use it (it uses {', '.join(ACTIONS[self.action])}). Leave it out."
                )
