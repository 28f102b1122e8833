# SPDX-License-Identifier: Apache-2.0
"""Batches with a fixed share of each role, epochs counted exactly, resumable."""

import dataclasses
from typing import Any

import numpy as np

from jax_surgery.data.packing import Packer, Rows, concatenate, padding

ROLES = ("unlearn", "update", "retain")
Batch = dict[str, np.ndarray]


class RoleStream:
    """Rows of one role, epoch after epoch; each epoch is packed in a new order.

    Every document occurs exactly once in each epoch; a batch may straddle two.
    """

    def __init__(self, packer: Packer, seed: int):
        self._packer, self._seed = packer, seed
        self.epoch, self._row = 0, 0
        self._rows = packer.pack(self._epoch_seed())

    def _epoch_seed(self) -> int:
        return int(np.random.default_rng((self._seed, self.epoch)).integers(2**31))

    def next_rows(self, count: int) -> Rows:
        """The next `count` rows."""
        parts, missing = [], count
        while missing:
            if self._row == len(self._rows):
                self.epoch, self._row = self.epoch + 1, 0
                self._rows = self._packer.pack(self._epoch_seed())
            part = self._rows.take(slice(self._row, self._row + missing))
            self._row += len(part)
            missing -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else concatenate(parts)

    @property
    def epochs(self) -> float:
        """Passes over the documents so far (a part of one by its rows)."""
        return self.epoch + self._row / len(self._rows)

    def get_state(self) -> dict[str, int]:
        """Where the stream stands, as plain numbers."""
        return {"epoch": self.epoch, "row": self._row}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where `get_state` was taken."""
        self.epoch, self._row = int(state["epoch"]), int(state["row"])
        self._rows = self._packer.pack(self._epoch_seed())


class BatchStream:
    """Endless batches whose rows are [unlearn; update; retain]."""

    def __init__(self, packers: dict[str, Packer], rows: dict[str, int], seed: int):
        """Streams of the roles that have rows.

        Args:
          packers: by role.
          rows: of a batch, by role; 0 leaves the role out.
          seed: of the order.

        Raises:
          ValueError: no rows at all, or rows of a role that has no texts.
        """
        wanted = [role for role in ROLES if rows.get(role, 0)]
        if not wanted:
            raise ValueError(
                "rows_unlearn, rows_update and rows_retain are all 0; a batch needs "
                "rows of at least one role."
            )
        lacking = [role for role in wanted if role not in packers]
        if lacking:
            raise ValueError(f"rows of {lacking[0]} are asked for but it has no texts.")
        self._counts = {role: rows[role] for role in wanted}
        self._streams = {
            role: RoleStream(packers[role], seed + ROLES.index(role)) for role in wanted
        }

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        parts = [self._streams[r].next_rows(n) for r, n in self._counts.items()]
        return as_batch(concatenate(parts))

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each role's documents so far."""
        return {role: stream.epochs for role, stream in self._streams.items()}

    def get_state(self) -> dict[str, Any]:
        """Where every role stands; JSON-able."""
        return {role: stream.get_state() for role, stream in self._streams.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was taken."""
        for role, stream in self._streams.items():
            stream.set_state(state[role])


def as_batch(rows: Rows) -> Batch:
    """Rows as the batch that models and losses read, keys ending in `_BT`."""
    return {
        f.name.replace("_RT", "_BT"): getattr(rows, f.name)
        for f in dataclasses.fields(rows)
    }


def one_pass(rows: Rows, batch_rows: int):
    """Every row once, in batches of `batch_rows`; the last is filled up with padding.

    Yields:
      (batch, number of its rows that are real).
    """
    for start in range(0, len(rows), batch_rows):
        part = rows.take(slice(start, start + batch_rows))
        real = len(part)
        if real < batch_rows:
            fill = padding(batch_rows - real, part.tokens_RT.shape[1])
            part = concatenate([part, fill])
        yield as_batch(part), real
