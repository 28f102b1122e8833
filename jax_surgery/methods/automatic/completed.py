# SPDX-License-Identifier: Apache-2.0
"""What a model wrote for a run, and the file of the run that holds it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from jax_surgery.data.asked import Kind
from jax_surgery.data.forms import Record
from jax_surgery.storage import files
from jax_surgery.train import checksums

FILE = "completed.jsonl"
# Questions with the model's own answers.
ANSWERED = ("neighbours", "subjects", "knowledge", "kept")
RETAINED = (*ANSWERED, "chat", "text")
TRAINED = (*RETAINED, "own", "reworded", "sentences")
ASKED = ("unlearn_asked", "update_asked")
KINDS = (*TRAINED, *ASKED)


@dataclasses.dataclass(frozen=True)
class Completed:
    """What a model wrote.

    Attributes:
      neighbours: questions about other subjects with its greedy answers (retain).
      subjects: other questions about subjects of the update with its greedy answers
        (retain).
      knowledge: questions of general knowledge with its greedy answers (retain).
      kept: questions of the user's retained text with its greedy answers (retain).
      chat: conversations with itself (retain).
      text: free text, and packaged passages (retain).
      own: its own answers to the questions to unlearn (unlearn).
      reworded: other wordings of questions to update, with their new answers (update).
      sentences: its own sentences with the new answers (update).
      unlearn_asked, update_asked: further wordings of both, with the short answer that is
        to go or to come, of which nothing is trained on: they are evidence.
    """

    neighbours: list[Record]
    subjects: list[Record]
    knowledge: list[Record]
    kept: list[Record]
    chat: list[Record]
    text: list[Record]
    own: list[Record]
    reworded: list[Record]
    sentences: list[Record]
    unlearn_asked: list[Record]
    update_asked: list[Record]

    def by_kind(self) -> dict[str, list[Record]]:
        """All of it."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def asked(self) -> dict[Kind, list[Record]]:
        """What is asked alone, by role."""
        return {"unlearn": self.unlearn_asked, "update": self.update_asked}

    def retained(self) -> dict[str, list[Record]]:
        """What is retained, by kind."""
        return {kind: getattr(self, kind) for kind in RETAINED}


def nothing() -> Completed:
    """Of a run that writes nothing."""
    return Completed(*([] for _ in KINDS))


def write(file: epath.Path, key: str, written: Completed) -> None:
    """Writes `completed.jsonl`: a line that says of what it is, and a line a text."""
    rows = [
        {"kind": kind} | _row(record)
        for kind, records in written.by_kind().items()
        for record in records
    ]
    head = {"of": key, "sha256": checksums.of_value(rows)}
    lines = [json.dumps(row, ensure_ascii=False) for row in (head, *rows)]
    files.write_text(file, "\n".join(lines) + "\n")


def read(file: epath.Path, key: str | None = None) -> Completed | None:
    """What was written for the same; None where nothing is, or not all of it as it was.

    Args:
      key: of what it is for; None takes it whatever it is for.
    """
    if not file.exists():
        return None
    try:
        lines = file.read_text().split("\n")
        head, *rows = [json.loads(line) for line in lines if line]
        if key is not None and head["of"] != key:
            print(f"{file} is of another model, data or seed, and is written anew.")
            return None
        if head["sha256"] == checksums.of_value(rows):
            found: dict[str, list[Record]] = {kind: [] for kind in KINDS}
            for row in rows:
                found[row.pop("kind")].append(_record(row))
            return Completed(**found)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    print(f"{file} is damaged and is written anew.")
    return None


def _row(record: Record) -> dict[str, Any]:
    """A record's fields that say something."""
    return {k: v for k, v in dataclasses.asdict(record).items() if v}


def _record(row: Mapping[str, Any]) -> Record:
    fields: dict[str, Any] = {"prompt": "", "answer": "", "origin": "", **row}
    fields["messages"] = tuple(map(tuple, row.get("messages", ())))
    fields["further"] = tuple(row.get("further", ()))
    return Record(**fields)
