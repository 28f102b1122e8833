# SPDX-License-Identifier: Apache-2.0
"""The three roles of a run: read, checked, then tokenised and packed.

`read_roles` finds every mistake in the data that needs no tokenizer, `pack_roles` the
rest; neither needs a model.
"""

import dataclasses
from typing import Any

from jax_surgery.config import at_least
from jax_surgery.data import records
from jax_surgery.data.background import Background, select
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Average, Packer
from jax_surgery.data.pairs import pack_pairs
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.tokens import encode


@dataclasses.dataclass(frozen=True)
class RoleData:
    """What a run reads; a role's field lists its sources (see `data.records`)."""

    unlearn: str
    update: str
    retain: str
    rows_unlearn: int  # rows of each batch
    rows_update: int
    rows_retain: int
    context: int  # tokens a row
    average: Average  # CE: mean over tokens then texts; or "tokens"
    surprise: float  # nats; unlearn only tokens that surprise retained text as much
    questions: str  # "embedded", a questions JSONL, or "" for none

    def __post_init__(self):
        rows = ("rows_unlearn", "rows_update", "rows_retain")
        at_least(0, self, "config.data", *rows, "surprise")
        at_least(2, self, "config.data", "context")

    @property
    def rows(self) -> dict[str, int]:
        """Rows of a batch by role."""
        return {
            "unlearn": self.rows_unlearn,
            "update": self.rows_update,
            "retain": self.rows_retain,
        }


@dataclasses.dataclass(frozen=True)
class RoleSources:
    """Comma-separated sources of each role; "" where the role is left out."""

    unlearn: str = ""
    update: str = ""
    retain: str = ""


def read_roles(sources: RoleSources, rows: dict[str, int]) -> dict[str, list[Record]]:
    """Reads and checks the roles, before any model is loaded.

    Args:
      sources: of each role.
      rows: of a batch, by role; a role of 0 rows is not read.

    Raises:
      FileNotFoundError, ValueError: a missing file, malformed rows, a role without
        sources, or a text in both unlearn and retain.
    """
    read = {
        role: records.read_role(getattr(sources, role), role)
        for role in ROLES
        if rows.get(role, 0)
    }
    if "unlearn" in read and "retain" in read:
        records.check_overlap(read["unlearn"], read["retain"])
    return read


def pack_roles(
    read: dict[str, list[Record]],
    tokenizer: Any,
    context: int,
    average: Average,
    background: Background | None = None,
    surprise: float = 0.0,
    pairs_seed: int | None = None,
) -> dict[str, Packer]:
    """Tokenises each role's records and prepares their packing.

    Args:
      read: records by role.
      tokenizer, context, average: see `encode` and `Packer`.
      background: of the retain text; needed where `surprise` is above 0.
      surprise: nats; unlearn only tokens that surprise the background as much.
      pairs_seed: where given, the unlearn role is packed in pairs with alternatives
        (see `pairs.pack_pairs`); of the refusals that are drawn.

    Raises:
      ValueError: see `tokens.encode`; names the role.
    """
    packers = {}
    for role, rows in read.items():
        try:
            if role == "unlearn" and pairs_seed is not None:
                if surprise:
                    raise ValueError(
                        f"data.surprise={surprise:g} chooses tokens of a text, but the "
                        "method compares whole answers; use data.surprise=0."
                    )
                packed = pack_pairs(rows, tokenizer, context, average, pairs_seed)
                packers[role] = packed
                continue
            documents = encode(rows, tokenizer, context)
            if role == "unlearn" and surprise:
                assert background, "data.surprise needs the retain text"
                documents = select(documents, background, surprise)
        except ValueError as error:
            raise ValueError(f"config.data.{role}: {error}") from error
        packers[role] = Packer(documents, context, average)
    return packers
