# SPDX-License-Identifier: Apache-2.0
"""How many steps a run may take where its config leaves that to it (`config.steps=0`)."""

import math
from collections.abc import Mapping

from jax_surgery.data.packing import Packer

# Times that a run reads the texts of a role, at least.
PASSES = {"unlearn": 6.0, "update": 18.0}
LEAST = 24  # of steps: texts of a few rows are read more often
MOST = (
    150  # of many texts all are read once, and no more than that for more than so many
)


def steps(packers: Mapping[str, Packer], rows: Mapping[str, int]) -> int:
    """Steps that read the texts of each role as often as `PASSES` says.

    Args:
      packers: of the texts, by role; roles without text do not count.
      rows: of a step, by role.
    """
    found = LEAST
    for role, passes in PASSES.items():
        if role in packers and rows[role]:
            once = len(packers[role].pack()) / rows[role]
            found = max(found, math.ceil(max(once, min(passes * once, MOST))))
    return found
