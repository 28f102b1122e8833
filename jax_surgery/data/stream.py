# SPDX-License-Identifier: Apache-2.0
"""Batches with a fixed share of each role, epochs counted exactly, resumable.

An epoch of a role is one pass over its documents, each exactly once, in an order drawn
from the seed and the epoch. A row never mixes two epochs; a batch may.
"""

from collections.abc import Iterator, Mapping
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

    def __init__(self, packer: Packer, seed: int):
        self._packer, self._seed = packer, seed
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self.epoch, self._documents = epoch, 0
        self._rows = self._packer.iterate(_derived_seed(self._seed, epoch))

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
        units = self._packer.num_units
        return (self.epoch * units + self._documents) / units

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
    ):
        """Streams of the roles that have rows.

        Args:
          packers: by role.
          rows: of text in a batch, by role; 0 leaves the role out.
          seed: of the order.
          layout: where each role's rows lie, empty ones among them; None is one device
            without empty rows.
          here: which rows of a batch this process makes, rising; None is all.

        Raises:
          ValueError: an unknown role, no rows at all, or rows of a role that has no
            texts.
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
        self._streams = {
            role: RoleStream(packers[role], _derived_seed(seed, ROLES.index(role)))
            for role in wanted
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = padding(len(self._here), self._context, self._begins)
        self.real_tokens = 0
        for role, count in self._counts.items():
            elements = self._streams[role].next_elements(count)
            tokens = sum((e["index_segment_ids"] > 0).sum() for e in elements)
            self.real_tokens += int(tokens)
            # The last places of a role are left empty where it has more of them.
            places = self._places[role][:count]
            mine = np.flatnonzero(np.isin(places, self._here))
            if not len(mine):
                continue
            rows = self._packers[role].rows([elements[i] for i in mine])
            slots = np.searchsorted(self._here, places[mine])
            for all_BT, own_BT in zip(jax.tree.leaves(batch), jax.tree.leaves(rows)):
                all_BT[slots] = own_BT
        return batch

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each role's documents so far."""
        return {role: stream.epochs for role, stream in self._streams.items()}

    def get_state(self) -> dict[str, Any]:
        """Where every role stands; JSON-able."""
        return {role: stream.get_state() for role, stream in self._streams.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was taken; what follows is bit-equal.

        Raises:
          ValueError: the state has other roles, or see `RoleStream.set_state`.
        """
        if set(state) != set(self._streams):
            raise ValueError(
                f"the saved run read the roles {', '.join(state)}, this one "
                f"{', '.join(self._streams)}; resume with the same rows of each role."
            )
        for role, stream in self._streams.items():
            stream.set_state(state[role])


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
