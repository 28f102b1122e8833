# SPDX-License-Identifier: Apache-2.0
"""The three roles of a run: their settings, and their text read and checked.

Every mistake in the data is found here that needs no tokenizer, so that it shows at once.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

from jax_surgery.config import at_least, names
from jax_surgery.data import overlap, records
from jax_surgery.data.forms import Record
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.role_names import ROLES, Average
from jax_surgery.data.sources import MAX_ERRORS_SHOWN


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
    chat: AsChat  # questions in the model's chat template

    def __post_init__(self):
        rows = ("rows_unlearn", "rows_update", "rows_retain")
        at_least(0, self, "config.data", *rows, "surprise")
        at_least(2, self, "config.data", "context")
        if not any(self.rows.values()):
            raise ValueError(
                "config.data.rows_unlearn, config.data.rows_update and "
                "config.data.rows_retain are all 0, so no text is left; give rows to "
                "the roles that have text."
            )

    @property
    def sources(self) -> dict[str, str]:
        """Sources by role."""
        return {
            "unlearn": self.unlearn,
            "update": self.update,
            "retain": self.retain,
        }

    @property
    def rows(self) -> dict[str, int]:
        """Rows of a batch by role."""
        return {
            "unlearn": self.rows_unlearn,
            "update": self.rows_update,
            "retain": self.rows_retain,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class RoleRecords:
    """Records.

    Attributes:
      by_role: of each role that has rows.
      retained: those that are read as retained text.
      shared: where updated records stand that are retained too, of which was warned.
    """

    by_role: dict[str, list[Record]]
    retained: list[Record]
    shared: frozenset[str] = frozenset()


def read(data: RoleData, statistics: str, needed_by: Mapping[str, str]) -> RoleRecords:
    """Reads and checks the text of all roles, before any model is loaded.

    Args:
      data: sources and rows of each role; a role of 0 rows is not read.
      statistics: sources of retained text for the statistics; "" takes `data.retain`.
      needed_by: the config fields that read retained text, where its rows are 0 too,
        each "FIELD=VALUE" with what to use instead.

    Raises:
      FileNotFoundError, ValueError: a missing file, malformed rows, a role without
        sources, a text that is to be unlearned and has another role; or something reads
        retained text and there is none.
    """
    found = {
        role: records.read_role(data.sources[role], role)
        for role in ROLES
        if data.rows[role]
    }
    retained = found.get("retain", [])
    if statistics or not retained:
        given = statistics or data.retain
        if names(given):
            retained = records.read_role(given, "retain")
        elif needed_by:
            raise ValueError(
                "there is no text to retain, which "
                + " and ".join(needed_by)
                + " would read: give config.data.retain (its rows may be 0) or "
                "config.statistics.sources, or use "
                + ", ".join(needed_by.values())
                + "."
            )
    whole = RoleRecords(found, retained)
    return dataclasses.replace(whole, shared=check_roles(whole))


def check_roles(read: RoleRecords, tokenizer: Any = None) -> frozenset[str]:
    """Refuses a text that is to be unlearned and also updated or retained; warns of one
    that is both updated and retained, which may be meant.

    Args:
      read: of those in its `shared` nothing is said again.
      tokenizer: of the model, where it is loaded: then prompts that were rendered with
        its chat template are compared too. Where there are none of these, what was
        compared without it is not compared again.

    Returns:
      where updated records stand that are retained too.

    Raises:
      ValueError: see `records.check_overlap`.
    """
    unlearn, update, rows = (read.by_role.get(role, []) for role in ROLES)
    kept = rows if rows is read.retained else [*rows, *read.retained]
    if tokenizer is not None and not overlap.any_rendered(
        itertools.chain(unlearn, update, kept), tokenizer
    ):
        return read.shared
    records.check_overlap(unlearn, update, "update", tokenizer)
    removed, updated = overlap.find_each([unlearn, update], kept, tokenizer)
    records.refuse_shared(removed, "retain")
    if both := [shared for shared in updated if shared.place not in read.shared]:
        warnings.warn(
            f"{len(both)} texts are in both update and retain: "
            f"{'; '.join(map(str, both[:MAX_ERRORS_SHOWN]))}. Retaining a text holds the "
            "model to what it says now; leave what is to be learned out of retain.",
            stacklevel=2,
        )
    return read.shared | {shared.place for shared in updated}
