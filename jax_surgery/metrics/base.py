# SPDX-License-Identifier: Apache-2.0
"""What every metric gives: a value with its interval, its size and its reference."""

import dataclasses
from typing import Literal

Direction = Literal["knows", "ignorant", "neither"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
      value: the estimate, in the metric's unit.
      interval: 95 % confidence interval of the value (low, high).
      n: how many independent things were measured (questions, documents).
      reference: the value of a model that does not know the text (chance); None where
        that is not known.
    """

    value: float
    interval: tuple[float, float]
    n: int
    reference: float | None = None
