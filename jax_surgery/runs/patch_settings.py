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


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """What to do with which edit files (`run = "edit"`)."""

    run: str = "edit"
    action: str = "show"  # or "apply", "rollback", "scale", "compose"
    edits: str = ""  # files of edits, comma-separated
    model: str = ""  # "embedded", "suite", a directory, or a hub name
    scale: float = 1.0  # factor on the edit's change
    rank: int = 0  # highest rank of a composed edit; 0 keeps it exact

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise ValueError(
                f"config.action={self.action!r}; choose one of {', '.join(ACTIONS)}."
            )
        if self.rank < 0:
            raise ValueError(f"config.rank={self.rank} must be 0 or more.")
        if not math.isfinite(self.scale):
            raise ValueError(f"config.scale={self.scale} must be a finite number.")
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if field.name not in ACTIONS[self.action] and value != field.default:
                raise ValueError(
                    f"config.{field.name}={value!r}: action {self.action!r} does not "
                    f"use it (it uses {', '.join(ACTIONS[self.action])}). Leave it out."
                )
