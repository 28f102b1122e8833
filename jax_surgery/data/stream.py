# SPDX-License-Identifier: Apache-2.0
"""Batches with a fixed share of each role, epochs counted exactly, resumable.

An epoch of a role is one pass over its documents, each exactly once, in an order drawn
from the seed and the epoch. A row never mixes two epochs; a batch may.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_surgery.data.batch import Batch, concatenate, padding
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.parallel import preemption, progress


def _derived_seed(*entropy: int) -> int:
    """A seed in [0, 2**31) that differs whenever one of the numbers does."""
    return int(np.random.default_rng(entropy).integers(2**31))


def _plain(state: Any) -> Any:
    """A copy of nested dicts with every number an int (a checkpoint may give arrays)."""
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return int(state)


class RoleStream:
    """Rows of one role, epoch after epoch; each epoch is packed in a new order."""

    def __init__(self, packer: Packer, seed: int, stream: int | None = None):
        """Rows of all documents, or of those of one of the role's streams.

        Raises:
          ValueError: the stream has no documents.
        """
        self._packer, self._seed, self._stream = packer, seed, stream
        self.units = packer.num_units
        if stream is not None:
            self.units = int((packer.streams == stream).sum())
            if not self.units:
                raise ValueError(
                    f"weighted source {stream + 1} of its role holds no text that is "
                    "learned; leave it out, or lower config.data.surprise."
                )
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self.epoch, self._documents = epoch, 0
        seed = _derived_seed(self._seed, epoch)
        self._rows = self._packer.iterate(seed, self._stream)

    def next_elements(self, count: int) -> list[dict[str, np.ndarray]]:
        """The next `count` rows, as positions in the corpus (see `Packer.rows`)."""
        elements: list[dict[str, np.ndarray]] = []
        while len(elements) < count:
            element = next(self._rows, None)
            if element is None:
                self._begin(self.epoch + 1)
                continue
            elements.append(element)
            self._documents += int(element["index_segment_ids"].max())
        return elements

    @property
    def epochs(self) -> float:
        """Passes over the documents (groups that are packed whole) so far."""
        return self.seen / self.units

    @property
    def seen(self) -> int:
        """Documents so far, of all epochs."""
        return self.epoch * self.units + self._documents

    def _identity(self) -> dict[str, Any]:
        packer = self._packer
        return {
            "seed": self._seed,
            "documents": len(packer.documents),
            "tokens": packer.num_tokens,
            "context": packer.context,
            "text": packer.digest,
        }

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, as plain numbers in plain dicts (JSON)."""
        return {
            "identity": self._identity(),
            "epoch": self.epoch,
            "documents_seen": self._documents,
            # Copied: Grain goes on changing the dict that it gives out.
            "grain": _plain(self._rows.get_state()),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was taken.

        Raises:
          ValueError: the state is of other data, another seed or context.
        """
        for name, own in self._identity().items():
            if (there := state["identity"].get(name)) != own:
                what = "text of the hash " if name == "text" else f"data with {name}="
                raise ValueError(
                    f"the saved run read {what}{str(there)[:12]}, this one has "
                    f"{str(own)[:12]}; resume with the same data and settings, or start "
                    "in a new workdir."
                )
        state = _plain({k: v for k, v in state.items() if k != "identity"})
        self._begin(state["epoch"])
        self._documents = state["documents_seen"]
        self._rows.set_state(state["grain"])


class BatchStream:
    """Endless batches with rows of each role, as a `RoleRows` lays them out.

    Every process packs all rows, which are positions in the corpus alone, so that all
    agree and count epochs alike; it looks up the tokens of its own rows only.

    Attributes:
      real_tokens: of the last batch, padding not counted, on all processes.
    """

    def __init__(
        self,
        packers: dict[str, Packer],
        rows: dict[str, int],
        seed: int,
        *,
        layout: RoleRows | None = None,
        here: np.ndarray | None = None,
        weights: Mapping[str, Sequence[float]] | None = None,
    ):
        """Streams of the roles that have rows.

        Args:
          packers: by role.
          rows: of text in a batch, by role; 0 leaves the role out.
          seed: of the order.
          layout: where each role's rows lie, empty ones among them; None is one device
            without empty rows.
          here: which rows of a batch this process makes, rising; None is all.
          weights: of the streams of a role that has some (see `data.streams`), each with
            as many rows.

        Raises:
          ValueError: an unknown role, no rows at all, rows of a role that has no texts,
            or a stream without text.
        """
        unknown = [role for role in rows if role not in ROLES]
        if unknown:
            raise ValueError(f"unknown role {unknown[0]!r}; roles are {ROLES}.")
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
        layout = layout or RoleRows(*(rows.get(role, 0) for role in ROLES))
        self._places = {role: layout.places(role) for role in wanted}
        self._here = np.arange(layout.total) if here is None else here
        self._context = packers[wanted[0]].context
        self._begins = len(packers[wanted[0]].beginning) > 0
        self._packers = packers
        self.real_tokens = 0
        self._weights = {r: tuple(w) for r, w in (weights or {}).items() if w}
        self._streams = {
            role: self._of_role(role, seed, len(self._weights.get(role, ())))
            for role in wanted
        }

    def _of_role(self, role: str, seed: int, streams: int) -> list[RoleStream]:
        place, packer = ROLES.index(role), self._packers[role]
        if not streams:
            return [RoleStream(packer, _derived_seed(seed, place))]
        return [
            RoleStream(packer, _derived_seed(seed, place, number), number)
            for number in range(streams)
        ]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = padding(len(self._here), self._context, self._begins)
        row_factor_B = np.ones(len(batch), np.float32)
        self.real_tokens = 0
        for role, count in self._counts.items():
            parts = [
                stream.next_elements(count // len(self._streams[role]))
                for stream in self._streams[role]
            ]
            elements = [element for part in parts for element in part]
            tokens = sum((e["index_segment_ids"] > 0).sum() for e in elements)
            self.real_tokens += int(tokens)
            # The last places of a role are left empty where it has more of them.
            places = self._places[role][:count]
            mine = np.flatnonzero(np.isin(places, self._here))
            if not len(mine):
                continue
            factors = self._factors(role, parts)[mine]
            rows = self._packers[role].rows([elements[i] for i in mine])
            slots = np.searchsorted(self._here, places[mine])
            for all_BT, own_BT in zip(jax.tree.leaves(batch), jax.tree.leaves(rows)):
                all_BT[slots] = own_BT
            row_factor_B[slots] = factors
        return batch.replace(row_factor_B=row_factor_B) if self._weights else batch

    def _factors(self, role: str, parts: list[list[dict[str, Any]]]) -> np.ndarray:
        """The factor of each of a role's rows in the loss (`Batch.row_factor_B`).

        The term is a mean over the role's tokens; with these factors it is the weighted
        sum of the means over each stream's.
        """
        rows = [len(part) for part in parts]
        if role not in self._weights:
            return np.ones(sum(rows))
        weight_of = self._packers[role].weight_of
        sums = [weight_of(np.stack([e["index"] for e in part])) for part in parts]
        factors = np.array(self._weights[role]) * sum(sums) / np.array(sums)
        return np.repeat(factors, rows)

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each role's documents so far."""
        return {
            role: sum(s.seen for s in streams) / sum(s.units for s in streams)
            for role, streams in self._streams.items()
        }

    def get_state(self) -> dict[str, Any]:
        """Where every role stands; JSON-able."""
        return {name: stream.get_state() for name, stream in self._named().items()}

    def _named(self) -> dict[str, RoleStream]:
        """The streams by their names in a saved state."""
        return {
            role if len(streams) == 1 else f"{role} {number + 1}": stream
            for role, streams in self._streams.items()
            for number, stream in enumerate(streams)
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was taken; what follows is bit-equal.

        Raises:
          ValueError: the state has other roles, or see `RoleStream.set_state`.
        """
        streams = self._named()
        if set(state) != set(streams):
            raise ValueError(
                f"the saved run read the roles {', '.join(state)}, this one "
                f"{', '.join(streams)}; resume with the same rows of each role."
            )
        for name, stream in streams.items():
            stream.set_state(state[name])


def one_pass(rows: Batch, batch_rows: int, title: str = "") -> Iterator[Batch]:
    """Every row once, in batches of `batch_rows`; the last is filled up with padding.

    A signal may stop the run between two of them (see `preemption.pass_point`).

    Args:
      title: of a bar that is shown where the pass takes a while; "" for none.
    """
    starts = progress.Bar(
        range(0, len(rows), batch_rows), title=title, unit="batch", disable=not title
    )
    for start in starts:
        batch = rows.select(slice(start, start + batch_rows))
        if fill := batch_rows - len(batch):
            empty = padding(fill, rows.tokens_BT.shape[1], rows.begins_BT is not None)
            batch = concatenate([batch, empty])
        preemption.pass_point()
        yield batch
