# SPDX-License-Identifier: Apache-2.0
"""Endless batches of packed rows, with a fixed share of rows for each role.

An epoch of a role is one pass over its documents, each exactly once, in an order drawn
from the seed and the epoch; rows never mix two epochs, batches may. The state of a
stream is a small JSON object; a stream that is set to it goes on bit for bit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery.data.packing import (
    Average,
    Corpus,
    Rows,
    gather_rows,
    row_iterator,
)
from jax_surgery.data.tokens import Document

ROLES = ("unlearn", "update", "retain")
Batch = dict[str, np.ndarray]


class RowStream:
    """The packed rows of one role, epoch after epoch."""

    def __init__(
        self,
        documents: Sequence[Document],
        context: int,
        *,
        seed: int = 0,
        average: Average = "tokens",
    ):
        """Begins at epoch 0; see `Corpus` and `row_iterator` for errors."""
        self.corpus = Corpus(documents, average)
        self._context = context
        self._seed = seed
        self._documents_seen = 0  # of the current epoch
        self._begin(epoch=0)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        # A fresh seed for each epoch, and for neighbouring seeds of the stream.
        entropy = np.random.SeedSequence([self._seed, epoch])
        seed = int(entropy.generate_state(1)[0])
        self._rows = row_iterator(self.corpus, self._context, seed)

    def take(self, rows: int) -> Rows:
        """The next `rows` rows."""
        elements: list[Any] = []
        while len(elements) < rows:
            element = next(self._rows, None)
            if element is None:
                self._begin(self._epoch + 1)
                self._documents_seen = 0
                continue
            elements.append(element)
            self._documents_seen += int(element["index_segment_ids"].max())
        return gather_rows(self.corpus, elements, rows, self._context)

    @property
    def documents_seen(self) -> int:
        """Documents given out since the beginning, repeats counted."""
        return self._epoch * self.corpus.num_documents + self._documents_seen

    @property
    def epochs(self) -> float:
        """Passes over the documents, exact up to the division."""
        return self.documents_seen / self.corpus.num_documents

    def get_state(self) -> dict[str, Any]:
        """The place in the stream, as JSON."""
        return {
            "seed": self._seed,
            "num_documents": self.corpus.num_documents,
            "num_tokens": len(self.corpus.tokens),
            "epoch": self._epoch,
            "documents_seen": self._documents_seen,
            # A copy: Grain goes on changing the one that it gives out.
            "grain": json.loads(json.dumps(self._rows.get_state())),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called.

        Raises:
          ValueError: the state is of a stream with another seed or other data.
        """
        own = self.get_state()
        for key in ("seed", "num_documents", "num_tokens"):
            if state[key] != own[key]:
                raise ValueError(
                    f"the saved stream has {key}={state[key]}, this one {own[key]}; "
                    "resume with the data and seed of the saved run, or start anew "
                    "in an empty workdir."
                )
        self._begin(state["epoch"])
        self._documents_seen = state["documents_seen"]
        self._rows.set_state(json.loads(json.dumps(state["grain"])))


def _as_batch(rows: Sequence[Rows], roles: Sequence[int]) -> Batch:
    """Rows of several roles, one below the other."""
    names = ("tokens", "segment_ids", "positions", "weights", "token_index")
    batch = {
        f"{name}_BT": np.concatenate([getattr(r, f"{name}_RT") for r in rows])
        for name in names
    }
    counts = [len(r) for r in rows]
    batch["role_B"] = np.repeat(np.asarray(roles, np.int32), counts)
    return batch


class BatchStream:
    """Endless batches, rows ordered [unlearn; update; retain].

    A batch is a dict of `tokens_BT`, `segment_ids_BT`, `positions_BT` (int32),
    `weights_BT` (float32), `token_index_BT` (int64, position in the role's corpus, -1
    where padded) and `role_B` (int32; index into `ROLES`); see `packing.Rows`.
    """

    def __init__(
        self,
        documents: Mapping[str, Sequence[Document]],
        rows: Mapping[str, int],
        context: int,
        *,
        seed: int = 0,
        average: Average = "tokens",
    ):
        """Begins at epoch 0 of every role.

        Args:
          documents: of each role in `ROLES` that has rows (`roles.Roles.documents`).
          rows: of a batch, for each role; a role with 0 rows, or none stated, is
            absent.
          context: tokens of a row.
          seed: of the documents' order; each role has its own order.
          average: see `packing.Corpus`.

        Raises:
          ValueError: an unknown role, negative rows, no rows at all, or a role with
            rows but no documents.
        """
        for role, count in rows.items():
            if role not in ROLES or count < 0:
                raise ValueError(
                    f"rows[{role!r}]={count}; state 0 or more rows for "
                    f"{', '.join(ROLES)}."
                )
            if count and not documents.get(role):
                raise ValueError(
                    f"a batch has {count} rows of {role!r}, which has no documents; "
                    "give it data or 0 rows."
                )
        self.rows = {role: rows[role] for role in ROLES if rows.get(role)}
        if not self.rows:
            raise ValueError(
                f"rows={dict(rows)} leaves a batch empty; give a role some."
            )
        self.streams = {
            role: RowStream(
                documents[role],
                context,
                seed=int(
                    np.random.SeedSequence([seed, ROLES.index(role)]).generate_state(1)[
                        0
                    ]
                ),
                average=average,
            )
            for role in self.rows
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        taken = [self.streams[role].take(count) for role, count in self.rows.items()]
        return _as_batch(taken, [ROLES.index(role) for role in self.rows])

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each present role's documents so far."""
        return {role: stream.epochs for role, stream in self.streams.items()}

    def get_state(self) -> dict[str, Any]:
        """The place in every role's stream, as JSON."""
        return {role: stream.get_state() for role, stream in self.streams.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called, bit for bit.

        Raises:
          ValueError: the state is of a stream of other roles, another seed or other
            data.
        """
        if set(state) != set(self.streams):
            raise ValueError(
                f"the saved stream has the roles {', '.join(state)}, this one "
                f"{', '.join(self.streams)}; resume with the saved run's rows."
            )
        for role, stream in self.streams.items():
            stream.set_state(state[role])


def single_stream(
    documents: Sequence[Document],
    rows: int,
    context: int,
    *,
    seed: int = 0,
    average: Average = "tokens",
) -> BatchStream:
    """Endless batches of one body of text, e.g. for pretraining (role "update")."""
    return BatchStream(
        {"update": documents}, {"update": rows}, context, seed=seed, average=average
    )


def one_pass(
    documents: Sequence[Document],
    rows: int,
    context: int,
    *,
    average: Average = "tokens",
) -> Iterator[Batch]:
    """Batches of `rows` rows that hold every document exactly once.

    The last batch is filled up with wholly padded rows, so that all batches have one
    shape. `role_B` is left out; `token_index_BT` tells which token is which.
    """
    corpus = Corpus(documents, average)
    elements: list[Any] = []
    for element in row_iterator(corpus, context, None):
        elements.append(element)
        if len(elements) == rows:
            yield _one_role(gather_rows(corpus, elements, rows, context))
            elements = []
    if elements:
        yield _one_role(gather_rows(corpus, elements, rows, context))


def _one_role(rows: Rows) -> Batch:
    batch = _as_batch([rows], [0])
    del batch["role_B"]
    return batch
