# SPDX-License-Identifier: Apache-2.0
"""Logs of a model's answers to TOFU: what is kept of each question, as JSON.

Beside its own form this reads that of the logs which TOFU's authors published
(github.com/locuslab/tofu, `eval_log_aggregated.json`).
"""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.storage import files

FORMAT = "jax_surgery tofu log, version 1"
# Of the authors' logs: the split of each table, and the column of each of its values.
PUBLISHED = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
COLUMNS = {
    "loss": "avg_gt_loss",
    "paraphrased_loss": "avg_paraphrased_loss",
    "perturbed_loss": "average_perturb_loss",
    "rouge_l": "rougeL_recall",
}
# Published logs are of the first 300 questions of a split, by this context of the logs.
ASKED = tuple(PUBLISHED.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """What a model gives for the questions of a split, float64 [questions].

    Losses are means over the tokens of an answer, its end among them, nats. What a log
    does not hold is None: the authors' holds the first four alone, and held-out people
    are asked neither for wrong answers nor to be written about.

    Attributes:
      loss: of the answer.
      paraphrased_loss: of the paraphrased answer; of the answer itself where the split has
        no other.
      perturbed_loss: of each wrong answer, [questions, wrong].
      rouge_l: ROUGE-L recall of what the model writes against the answer.
      exact_memorisation, extraction_strength, zlib, min_k, min_k_plus_plus: of the
        answer, see `one_pass.DocumentScores`.
    """

    loss: np.ndarray
    paraphrased_loss: np.ndarray | None = None
    perturbed_loss: np.ndarray | None = None
    rouge_l: np.ndarray | None = None
    exact_memorisation: np.ndarray | None = None
    extraction_strength: np.ndarray | None = None
    zlib: np.ndarray | None = None
    min_k: np.ndarray | None = None
    min_k_plus_plus: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.loss)

    def column(self, name: str) -> np.ndarray:
        """A value that must be there.

        Raises:
          ValueError: it is not.
        """
        if (value := getattr(self, name)) is None:
            raise ValueError(f"the log has no {name}, which this score is made of.")
        return value


FIELDS = tuple(field.name for field in dataclasses.fields(Table))


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """A model's answers to TOFU.

    Attributes:
      source: of the model, or the file that the log was read from.
      forget: the split that was asked as "forget", e.g. "forget10"; "" where a published
        log does not say.
      tables: by split: forget, retain, real_authors, world_facts, holdout.
    """

    source: str
    forget: str
    tables: dict[str, Table]


def write_log(log: Log, path: epath.PathLike) -> None:
    """Writes a log."""
    tables = {
        split: {
            name: value.tolist()
            for name in FIELDS
            if (value := getattr(table, name)) is not None
        }
        for split, table in log.tables.items()
    }
    head = {"format": FORMAT, "model": log.source, "forget": log.forget}
    files.write_text(epath.Path(path), json.dumps(head | {"tables": tables}) + "\n")


def read_log(path: epath.PathLike) -> Log:
    """A log of this package, or of TOFU's authors.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no such log, or lacks a split or a value.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f"there is no TOFU log {path}; give the tofu_log.json of the evaluation of a "
            "model that never read the forget split."
        )
    try:
        raw = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no TOFU log: it is no JSON ({error}).") from None
    try:
        if isinstance(raw, dict) and raw.get("format") == FORMAT:
            tables = {split: _table(rows) for split, rows in raw["tables"].items()}
            found = Log(str(path), str(raw["forget"]), tables)
        else:
            found = Log(str(path), "", _published(raw))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no TOFU log: {error} is missing or malformed. Give the "
            "tofu_log.json of an evaluation, or a log as TOFU's authors published it "
            f"(an object with {', '.join(PUBLISHED)})."
        ) from None
    for split in ASKED:
        _check(found.tables, split, str(path))
    return found


def _table(rows: dict[str, Any]) -> Table:
    return Table(**{name: np.asarray(rows[name], float) for name in rows})


def _published(raw: Any) -> dict[str, Table]:
    def column(rows: dict[str, Any], name: str) -> np.ndarray:
        by_index = rows[name]
        return np.asarray([by_index[i] for i in sorted(by_index, key=int)], float)

    return {
        split: Table(**{own: column(raw[key], name) for own, name in COLUMNS.items()})
        for key, split in PUBLISHED.items()
    }


def _check(tables: dict[str, Table], split: str, path: str) -> None:
    """Refuses a log that lacks what every score needs.

    Raises:
      ValueError: names the first of it.
    """
    if split not in tables:
        raise ValueError(f"the TOFU log {path} lacks the split {split}.")
    table = tables[split]
    for name in COLUMNS:
        value = getattr(table, name)
        if value is None or len(value) != len(table) or not len(value):
            raise ValueError(
                f"the TOFU log {path} has no {name} for each question of {split}."
            )
