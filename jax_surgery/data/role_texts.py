# SPDX-License-Identifier: Apache-2.0
"""The texts of a run's roles: read and checked before a model, packed with its tokenizer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_surgery.data import records, roles
from jax_surgery.data.background import Background
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.roles import RoleData


@dataclasses.dataclass(frozen=True, eq=False)
class RoleTexts:
    """Packed text.

    Attributes:
      packers: of each role that has rows in a batch.
      retained: all text to be retained, which statistics read and never train on; None
        where there is none.
    """

    packers: dict[str, Packer]
    retained: Packer | None

    @property
    def learned_tokens(self) -> int:
        """Tokens of the update role and of all retained text."""
        update = self.packers.get("update")
        return sum(text.num_tokens for text in (update, self.retained) if text)


@dataclasses.dataclass(frozen=True, eq=False)
class RoleRecords:
    """Records by role, and those that are read as retained text."""

    by_role: dict[str, list[Record]]
    retained: list[Record]


def read(data: RoleData, statistics: str, needed_by: Mapping[str, str]) -> RoleRecords:
    """Reads and checks the text of all roles.

    Args:
      data: sources and rows of each role.
      statistics: sources of retained text for the statistics; "" takes `data.retain`.
      needed_by: the config fields that read retained text, where its rows are 0 too,
        each "FIELD=VALUE" with what to use instead.

    Raises:
      FileNotFoundError, ValueError: see `roles.read_roles`; or something reads retained
        text and there is none.
    """
    sources = roles.RoleSources(data.unlearn, data.update, data.retain)
    found = roles.read_roles(sources, data.rows)
    if "retain" in found and not statistics:
        return RoleRecords(found, found["retain"])
    given = statistics or data.retain
    if not given.strip(" ,"):
        if needed_by:
            raise ValueError(
                "there is no text to retain, which "
                + " and ".join(needed_by)
                + " would read: give config.data.retain (its rows may be 0) or "
                "config.statistics.sources, or use "
                + ", ".join(needed_by.values())
                + "."
            )
        return RoleRecords(found, [])
    retained = records.read_role(given, "retain")
    if "unlearn" in found:
        records.check_overlap(found["unlearn"], retained)
    return RoleRecords(found, retained)


def pack(
    read: RoleRecords, data: RoleData, tokenizer: Any, pairs_seed: int | None = None
) -> RoleTexts:
    """Tokenises and packs; of the unlearn text only what surprises the retained text.

    Args:
      pairs_seed: see `roles.pack_roles`.

    Raises:
      ValueError: see `roles.pack_roles`.
    """
    how = (tokenizer, data.context, data.average)
    retained = None
    if read.retained:
        retained = roles.pack_roles({"retain": read.retained}, *how)["retain"]
    background = None
    if data.surprise:
        assert retained, "`read` refuses data.surprise without retain text"
        background = Background(retained.documents, len(tokenizer))
    # Retained text is mostly the retain role itself: tokenised once then.
    shared = read.by_role.get("retain") is read.retained
    apart = {r: v for r, v in read.by_role.items() if not (shared and r == "retain")}
    packers = roles.pack_roles(apart, *how, background, data.surprise, pairs_seed)
    if shared and retained:
        packers["retain"] = retained
    return RoleTexts(packers, retained)
