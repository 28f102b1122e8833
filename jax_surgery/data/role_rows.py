# SPDX-License-Identifier: Apache-2.0
"""Where the rows of each role lie in a batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.role_names import ROLES

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RoleRows:
    """How many rows of a batch each role has.

    A batch is `shards` equal parts, one for each device that rows are split over. Each
    part has its share of every role, in the order of `ROLES`, so that no device waits
    for another or sends it rows.
    """

    unlearn: int
    update: int
    retain: int
    shards: int = 1

    def __post_init__(self):
        for role in ROLES:
            if (rows := getattr(self, role)) % self.shards:
                raise ValueError(
                    f"{rows} {role} rows do not split over {self.shards} devices; use "
                    f"a multiple of {self.shards}."
                )

    @property
    def total(self) -> int:
        """Rows of a batch."""
        return self.unlearn + self.update + self.retain

    def _bounds(self, role: str) -> tuple[int, int]:
        """Where a role's rows lie within each part."""
        ends = [0]
        for name in ROLES:
            ends.append(ends[-1] + getattr(self, name) // self.shards)
        place = ROLES.index(role)
        return ends[place], ends[place + 1]

    def take(self, array_B: Any, role: str) -> Any:
        """The rows of a role, of a batch or of some of its parts.

        Args:
          array_B: [parts * B / shards, ...].
          role: one of `ROLES`.
        """
        first, last = self._bounds(role)
        part = self.total // self.shards
        parts = array_B.reshape(-1, part, *array_B.shape[1:])
        return parts[:, first:last].reshape(-1, *array_B.shape[1:])

    def only(self, array_BT: jax.Array, role: str) -> jax.Array:
        """The array of a whole batch, 0 on the rows of other roles."""
        return jnp.where(self.holds(role, self.total)[:, None], array_BT, 0)

    def holds(self, role: str, count: int) -> np.ndarray:
        """Which of `count` rows, of a batch or of some of its parts, are a role's."""
        first, last = self._bounds(role)
        place_B = np.arange(count) % (self.total // self.shards)
        return (place_B >= first) & (place_B < last)
