# SPDX-License-Identifier: Apache-2.0
"""What a run does by the amount of its texts: how many steps it takes where its config
leaves that to it (`config.steps=0`), and along which directions.

Of few texts every one is read often, and the Fisher information's own directions (kfac)
change least beside them. Of many texts each is read once or twice, and such steps follow
what many tokens state: single facts hardly move. Directions of equal singular values
(`optimizer.name=orthogonal`) move what few state as far as what many do.
"""

import dataclasses
import math
from collections.abc import Mapping

from jax_surgery.data.packing import Packer
from jax_surgery.methods.settings import SurgerySettings

# Times that a run reads the texts of a role, at least.
PASSES = {"unlearn": 9.0, "update": 27.0}
LEAST = 24  # of steps: texts of a few rows are read more often
# Of many texts all are read once, and no more than that for more than so many.
MOST = 225


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


def are_many(packers: Mapping[str, Packer], rows: Mapping[str, int]) -> bool:
    """Whether the texts to unlearn are read less often than `PASSES` says, since that
    would be more than `MOST` steps; see `steps`."""
    once = len(packers["unlearn"].pack()) / rows["unlearn"]
    return PASSES["unlearn"] * once > MOST


def fitted(settings: SurgerySettings, packers: Mapping[str, Packer]) -> SurgerySettings:
    """The settings with the steps and the optimizer that fit the amount of text.

    Args:
      packers: of the texts, by role.
    """
    rows, many = settings.data.rows, settings.retain.many
    if not settings.steps:
        settings = dataclasses.replace(settings, steps=steps(packers, rows))
    if many and are_many(packers, rows):
        optimizer = dataclasses.replace(settings.optimizer, name=many)
        settings = dataclasses.replace(settings, optimizer=optimizer)
    return settings
