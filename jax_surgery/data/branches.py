# SPDX-License-Identifier: Apache-2.0
"""Packs documents that begin alike, such as the answers to a question, as branches.

What documents one after another begin with, up to the token that predicts the first
learned one, stands once in a row and is seen by all of them (`Batch.begins_BT`); each
gives the values that it has alone.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_surgery.data.batch import Batch, padding
from jax_surgery.data.tokens import Document

LEAST_SHARED = 4  # tokens at the beginning of documents that are worth sharing


class _Unit(NamedTuple):
    """Documents of a row: their numbers, and how many tokens with which they begin stand
    there once, before them (0 of a document that stands whole)."""

    members: list[int]
    shared: int


def _beginning(document: Document) -> bytes:
    """What may be shared: all tokens but the one that predicts the first learned one,
    and those from it on."""
    first = int(np.argmax([*document.learned, True]))
    return document.tokens[: max(first - 1, 0)].astype(np.int32).tobytes()


class _Rows:
    """Rows that are filled with units.

    Attributes:
      rows: the units of each.
    """

    def __init__(self, documents: Sequence[Document], context: int):
        self.rows: list[list[_Unit]] = []
        self._sizes = [len(document.tokens) for document in documents]
        self._context, self._left = context, 0  # tokens left in the last row
        self._room: list[tuple[int, int]] = []  # (tokens, row) of those before, rising

    def _next_row(self) -> None:
        if self._left:
            bisect.insort(self._room, (self._left, len(self.rows) - 1))
        self.rows.append([])
        self._left = self._context

    def add_branches(self, members: list[int], shared: int) -> None:
        """As many in the last row as fit, the others in the rows after it."""
        while members:
            left, count = self._left - shared, 0
            while count < len(members) and self._sizes[members[count]] - shared <= left:
                left -= self._sizes[members[count]] - shared
                count += 1
            if not count:
                self._next_row()
                continue
            self.rows[-1].append(_Unit(members[:count], shared))
            self._left, members = left, members[count:]

    def add_whole(self, number: int) -> None:
        """Where it leaves least room."""
        size = self._sizes[number]
        place = bisect.bisect_left(self._room, (size, -1))
        if place < len(self._room):
            room, row = self._room.pop(place)
            self.rows[row].append(_Unit([number], 0))
            bisect.insort(self._room, (room - size, row))
            return
        if size > self._left:
            self._next_row()
        self.rows[-1].append(_Unit([number], 0))
        self._left -= size


def _packed(documents: Sequence[Document], context: int, share: bool) -> _Rows:
    rows, alone = _Rows(documents, context), []
    begins = map(_beginning, documents)
    for beginning, pairs in itertools.groupby(enumerate(begins), lambda pair: pair[1]):
        members, shared = [number for number, _ in pairs], len(beginning) // 4
        if share and len(members) > 1 and shared >= LEAST_SHARED:
            rows.add_branches(members, shared)
        else:
            alone += members
    for number in sorted(alone, key=lambda number: -len(documents[number].tokens)):
        rows.add_whole(number)
    return rows


def pack_branches(
    documents: Sequence[Document], context: int, share: bool = True
) -> Batch:
    """All documents once, as rows.

    Args:
      documents: those to share a beginning lie one after another.
      context: tokens of a row.
      share: whether beginnings are shared; without it each document stands whole.

    Returns:
      rows whose `token_index_BT` counts tokens of the whole documents laid end to end (-1
      on padding and on shared beginnings), and whose `weights_BT` are 1 on learned tokens
      that something predicts. `begins_BT` is absent where nothing is shared.

    Raises:
      ValueError: no documents, or one that is longer than a row.
    """
    if not documents:
        raise ValueError("there are no documents to pack; give at least one.")
    longest = max(documents, key=lambda document: len(document.tokens))
    if len(longest.tokens) > context:
        raise ValueError(
            f"a document of {len(longest.tokens)} tokens ({longest.origin}) does not fit "
            f"rows of {context} tokens; use longer rows."
        )
    starts = np.cumsum([0, *(len(document.tokens) for document in documents)])
    rows = _packed(documents, context, share).rows
    shares = any(unit.shared for own in rows for unit in own)
    batch = padding(len(rows), context, begins=shares)
    for row, own in enumerate(rows):
        _fill(batch.select(row), own, documents, starts)
    return batch


def _fill(
    row: Batch, units: list[_Unit], documents: Sequence[Document], starts: np.ndarray
) -> None:
    """Writes units into a row (a view of a batch)."""
    place = segment = 0

    def write(document: Document, first: int, stop: int, begin: int) -> slice:
        nonlocal place, segment
        segment += 1
        span, here = slice(place, place + stop - first), np.arange(first, stop)
        row.tokens_BT[span] = document.tokens[here]
        row.segment_ids_BT[span] = segment
        row.positions_BT[span] = here
        if begin:
            row.begins_BT[span] = begin
        place = span.stop
        return span

    for members, shared in units:
        begin = segment + 1 if shared else 0
        if shared:
            write(documents[members[0]], 0, shared, begin)
        for number in members:
            document = documents[number]
            span = write(document, shared, len(document.tokens), begin)
            places = np.arange(shared, len(document.tokens))
            # Nothing predicts the first token of a text.
            row.weights_BT[span] = document.learned[places] & (places > 0)
            row.token_index_BT[span] = starts[number] + places
