# SPDX-License-Identifier: Apache-2.0
"""Settings of what is done with edits' files."""

import dataclasses
import math

# Fields that each action reads.
ACTIONS = {
    "apply": ("edits", "model", "scale"),
    "rollback": ("edits", "model"),
    "scale": ("edits", "scale"),
    "compose": ("edits", "rank"),
    "show": ("edits",),
}


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """Applying, undoing and combining edits (`run = "edit"`)."""

    run: str = "edit"
    action: str = "show"  # or "apply", "rollback", "scale", "compose"
    edits: str = ""  # edits' files, comma-separated
    model: str = ""  # "embedded", "suite", a directory, or a hub name
    scale: float = 1.0  # the edit is taken as many times
    rank: int = 0  # of a composed edit at most; 0 keeps all

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise ValueError(
                f"config.action={self.action!r}; choose one of {', '.join(ACTIONS)}."
            )
        if self.rank < 0:
            raise ValueError(f"config.rank={self.rank}; use 0 or more.")
        if not math.isfinite(self.scale):
            raise ValueError(f"config.scale={self.scale}; use a finite number.")
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if field.name not in ACTIONS[self.action] and value != field.default:
                raise ValueError(
                    f"config.{field.name}={value!r}: action {self.action!r} does not "
                    f"use it (it uses {', '.join(ACTIONS[self.action])}). Leave it out."
                )
