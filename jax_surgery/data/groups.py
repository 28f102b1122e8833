# SPDX-License-Identifier: Apache-2.0
"""Groups of text: what is to be unlearned, updated or retained, and how it is scored."""

import dataclasses
from typing import Literal

Role = Literal["unlearn", "update", "retain"]


@dataclasses.dataclass(frozen=True)
class Group:
    """A named set of records with a role.

    Attributes:
      name: of the group.
      role: what is to happen to what a model knows of it.
      data: sources of its text (see `records`), comma-separated.
      test: sources of what it is scored on; "" is `data` itself.
      scorer: how it is scored: "accuracy", "choice" or "likelihood".
      chance: the score of a model that does not know it; 0 where that is not known.
      family: groups of the same family are similar; "" is none.
    """

    name: str
    role: Role
    data: str
    test: str = ""
    scorer: str = "accuracy"
    chance: float = 0.0
    family: str = ""
