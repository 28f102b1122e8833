# SPDX-License-Identifier: Apache-2.0
"""Settings of a plan."""

import dataclasses
from typing import Literal

from jax_surgery.config import at_least
from jax_surgery.methods.settings import SurgerySettings


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What a run's programs need on a slice that is not here (`run = "plan"`).

    Attributes:
      program: "step" of training, and its optimizer's statistics where it has
        any, or the programs of a "subspace" removal.
      model: a name in `models.published`, a directory, a hub name or "embedded".
      topology: a TPU slice, such as "v5e:4x4".
      num_slices: how many, joined by the data centre's network.
      rows: of each role on each device; 0 takes those of `surgery.data`.
      fast: memory alone, in seconds.
      neighbours: whether other settings and slices are tried; "auto" tries them where
        a program does not fit and, for a step, unless `fast`.
      surgery: the run whose step it is; its model and sources are not read.
    """

    run: str
    program: Literal["step", "subspace"]
    model: str
    topology: str
    num_slices: int
    rows: int
    fast: bool
    neighbours: Literal["auto", "yes", "no"]
    surgery: SurgerySettings

    def __post_init__(self):
        at_least(1, self, "config", "num_slices")
        at_least(0, self, "config", "rows")
