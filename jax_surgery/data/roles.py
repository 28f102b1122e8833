# SPDX-License-Identifier: Apache-2.0
"""The three roles of a run: their settings, and their text read and checked.

Every mistake in the data is found here that needs no tokenizer, so that it shows at once.
"""

import dataclasses
import itertools
import re
import warnings
from collections.abc import Mapping
from typing import Any

from jax_surgery.config import at_least, names
from jax_surgery.data import overlap, records, streams
from jax_surgery.data.forms import Record
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.role_names import ROLES, Average
from jax_surgery.data.sources import MAX_ERRORS_SHOWN


@dataclasses.dataclass(frozen=True)
class RoleData:
    """What a run reads; a role's field lists its sources (see `data.records`), of which
    those to unlearn and to update may have weights (see `data.streams`).

    Attributes:
      paper: where sources "paper:NAME" and the questions "paper" are read: the folder of
        the files that LLM Surgery's authors published, or "embedded" for the sets of the
        same names of the embedded benchmark; "" where no field names them.
      enrich_update, enrich_retain: paraphrases, and as many contextual descriptions, of
        each record of the role that the model is asked to write (see
        `methods.automatic.described`); 0 for none.
    """

    unlearn: str
    update: str
    retain: str
    rows_unlearn: int  # rows of each batch
    rows_update: int
    rows_retain: int
    context: int  # tokens a row
    average: Average  # CE: mean over tokens then texts; or "tokens"
    surprise: float  # nats; unlearn only tokens that surprise retained text as much
    questions: str  # "embedded", "paper", a questions JSONL, or "" for none
    paper: str
    chat: AsChat  # questions in the model's chat template
    enrich_update: int
    enrich_retain: int

    def __post_init__(self):
        rows = ("rows_unlearn", "rows_update", "rows_retain")
        written = ("enrich_update", "enrich_retain")
        at_least(0, self, "config.data", *rows, "surprise", *written)
        at_least(2, self, "config.data", "context")
        if not any(self.rows.values()):
            raise ValueError(
                "config.data.rows_unlearn, config.data.rows_update and "
                "config.data.rows_retain are all 0, so no text is left; give rows to "
                "the roles that have text."
            )
        if streams.weights_of(self.retain):
            raise ValueError(
                f"config.data.retain={self.retain!r}: retained text has one weight, "
                "config.objective.gamma; leave those of its sources out."
            )
        for role, weights in self.stream_weights.items():
            if weights and self.rows[role] % len(weights):
                raise ValueError(
                    f"config.data.rows_{role}={self.rows[role]} must be a multiple of "
                    f"the {len(weights)} weighted sources of config.data.{role}, which "
                    "have as many rows each."
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
    def stream_weights(self) -> dict[str, tuple[float, ...]]:
        """Weights of the streams of each role that may have some; () where it has none."""
        return {r: streams.weights_of(self.sources[r]) for r in ("unlearn", "update")}

    @property
    def enriched(self) -> dict[str, int]:
        """Texts of each kind that the model writes about a record, of roles that ask it."""
        found = {"update": self.enrich_update, "retain": self.enrich_retain}
        return {role: n for role, n in found.items() if n and self.rows[role]}

    @property
    def located(self) -> "RoleData":
        """The data with sources and questions that say where the paper's are.

        Raises:
          ValueError: they are named and `paper` is "".
        """
        fields = ("unlearn", "update", "retain", "questions")
        given = {name: getattr(self, name) for name in fields}
        found = {name: _located(text, self.paper) for name, text in given.items()}
        if not self.paper and found != given:
            names_it = next(name for name in fields if found[name] != given[name])
            raise ValueError(
                f"config.data.{names_it}={given[names_it]!r} names the paper's files, and "
                "config.data.paper is empty; give their folder, or 'embedded' for the "
                "sets of the embedded benchmark."
            )
        return dataclasses.replace(self, **found)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of a batch by role."""
        return {
            "unlearn": self.rows_unlearn,
            "update": self.rows_update,
            "retain": self.rows_retain,
        }


def _located(sources: str, paper: str) -> str:
    """Sources in which "paper:NAME" and "paper" say where they are."""

    def one(source: str) -> str:
        kind, colon, name = source.partition(":")
        if kind.split("*")[-1].strip() != "paper" or {":", "="} & {*name}:
            return source
        weight = kind[: kind.rindex("paper")]
        if paper == "embedded":
            return f"{weight}embedded{colon}{name}"
        return f"{weight}paper:{name}:{paper}" if name else f"paper:dir={paper}"

    if not re.search(r"\bpaper\b", sources):
        return sources
    return ",".join(map(one, names(sources)))


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
        role: records.read_streams(data.sources[role], role)
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
