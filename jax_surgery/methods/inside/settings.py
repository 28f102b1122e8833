# SPDX-License-Identifier: Apache-2.0
"""How far unlearning reaches inside the model (`config.inside`)."""

import dataclasses

from jax_surgery.config import at_least, positive


@dataclasses.dataclass(frozen=True)
class Inside:
    """Beside the unlearn term of what the model says.

    Attributes:
      lens: weight of the mean of the terms of the states inside, relative to that of the
        output; 0 takes none.
      silenced: share of the unlearn rows in which a part of a layer is left out.
      copies: steps after which another copy relearns; 0 for none.
      copy_share: of steps whose unlearn rows are read by the copy.
      copy_steps: of Adam that a copy takes, at most; how many is drawn for each.
      copy_rate: of Adam, at most; for each copy it or a third of it.
      copy_rows: of each of these steps.
    """

    lens: float
    silenced: float
    copies: int
    copy_share: float
    copy_steps: int
    copy_rate: float
    copy_rows: int

    def __post_init__(self):
        path = "config.inside"
        at_least(0, self, path, "lens", "silenced", "copies", "copy_share")
        at_least(1, self, path, "copy_steps", "copy_rows")
        positive(self.copy_rate, f"{path}.copy_rate", "a copy relearns by training")
        for name in ("silenced", "copy_share"):
            if (value := getattr(self, name)) > 1:
                raise ValueError(f"{path}.{name}={value} is a share; use 1 or less.")

    @property
    def is_used(self) -> bool:
        """Whether anything but the output is unlearned."""
        return bool(self.lens or self.silenced or self.copies)


NOTHING = Inside(0.0, 0.0, 0, 0.5, 8, 1e-3, 4)
