# SPDX-License-Identifier: Apache-2.0
"""Where the rows of each role lie in a batch; no other module knows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.role_names import ROLES
from jax_surgery.parallel import mesh as meshes


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

    @property
    def present(self) -> tuple[str, ...]:
        """The roles that have rows."""
        return tuple(role for role in ROLES if getattr(self, role))

    def only_of(self, *roles: str) -> "RoleRows":
        """The layout of what `take` gives for some roles."""
        absent = {role: 0 for role in ROLES if role not in roles}
        return dataclasses.replace(self, **absent)

    def split(self, parts: int) -> "RoleRows":
        """The rows of one of `parts` micro-batches.

        Raises:
          ValueError: a role's rows on a device do not divide by `parts`.
        """
        step = parts * self.shards
        for role in ROLES:
            if (count := getattr(self, role)) % step:
                below = count // step * step
                raise ValueError(
                    f"config.data.rows_{role}={count} does not divide into "
                    f"config.accumulate={parts} micro-batches on {self.shards} devices; "
                    f"nearest values that work: {below}, {below + step}."
                )
        counts = {role: getattr(self, role) // parts for role in ROLES}
        return dataclasses.replace(self, **counts)

    def _bounds(self, role: str) -> tuple[int, int]:
        """Where a role's rows lie within each part."""
        ends = [0]
        for name in ROLES:
            ends.append(ends[-1] + getattr(self, name) // self.shards)
        place = ROLES.index(role)
        return ends[place], ends[place + 1]

    def places(self, role: str) -> np.ndarray:
        """Places of a role's rows in the batch, to be filled in this order.

        They go to the parts in turn, so that rows which are left empty, the last ones,
        are spread over the devices too.
        """
        inside = np.arange(*self._bounds(role))[:, None]
        part = self.total // self.shards
        return (inside + part * np.arange(self.shards)[None]).ravel()

    def take(self, array_B: Any, *roles: str) -> Any:
        """The rows of some roles, of a batch or of some of its parts.

        Args:
          array_B: [parts * B / shards, ...].
          roles: some of `ROLES`, in that order.
        """
        part = self.total // self.shards
        parts = array_B.reshape(-1, part, *array_B.shape[1:])
        taken = [parts[:, slice(*self._bounds(role))] for role in roles]
        if len(taken) > 1:
            taken = [jnp.concatenate(taken, axis=1)]
        return taken[0].reshape(-1, *array_B.shape[1:])

    def put(self, array_R: jax.Array, role: str) -> jax.Array:
        """The inverse of `take` of one role: [B, ...], 0 on the rows of other roles."""
        first, last = self._bounds(role)
        parts = array_R.reshape(-1, last - first, *array_R.shape[1:])
        around = (first, self.total // self.shards - last)
        filled = jnp.pad(parts, [(0, 0), around] + [(0, 0)] * (array_R.ndim - 1))
        return filled.reshape(-1, *array_R.shape[1:])

    def only(self, array_BT: jax.Array, role: str) -> jax.Array:
        """The array of a whole batch, 0 on the rows of other roles."""
        return jnp.where(self.holds(role, self.total)[:, None], array_BT, 0)

    def holds(self, role: str, count: int) -> np.ndarray:
        """Which of `count` rows, of a batch or of some of its parts, are a role's."""
        first, last = self._bounds(role)
        place_B = np.arange(count) % (self.total // self.shards)
        return (place_B >= first) & (place_B < last)

    def in_parts(self, array_B: jax.Array, parts: int, *roles: str) -> jax.Array:
        """Rows as micro-batches that all devices share, [parts, rows / parts, ...].

        Args:
          array_B: rows of a batch; or of one role, which is then named.
          parts: micro-batches; each has its share of every role.
          roles: of the rows; none where they are a whole batch.
        """

        def pieces(rows_R):
            """A role's rows, [shards, parts, rows / shards / parts, ...]."""
            return rows_R.reshape(self.shards, parts, -1, *array_B.shape[1:])

        of_roles = [array_B] if roles else [self.take(array_B, r) for r in self.present]
        joined = jnp.concatenate([pieces(rows) for rows in of_roles], axis=2)
        flat = joined.swapaxes(0, 1).reshape(parts, -1, *array_B.shape[1:])
        return meshes.constrain(flat, None, meshes.ROWS)
