# SPDX-License-Identifier: Apache-2.0
"""TOFU (arXiv 2401.06121) from a directory of its JSONL files, as the three roles.

Files: `full.jsonl`, `forget05.jsonl`, `retain95.jsonl`, `holdout05.jsonl` (and the
other splits' names), each line `{"question": ..., "answer": ...}`, and `idk.txt`, one
refusal per line. One question occurs twice in `full`, so rows are told apart by their
index, never by the question.
"""

import dataclasses
import json
import random
from collections.abc import Iterator

from etils import epath

from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.data import records
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe

SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
METRICS = ("answer_probability", "rouge_l")


@dataclasses.dataclass(frozen=True)
class TofuFiles:
    """Paths of the files that a run needs."""

    full: str
    forget: str
    retain: str
    holdout: str
    refusals: str


def find_files(directory: str, forget: str) -> TofuFiles:
    """The files of one forget split in `directory`.

    Args:
      directory: holds the files named above.
      forget: "forget01", "forget05" or "forget10".

    Raises:
      ValueError: an unknown split, or no directory given.
      FileNotFoundError: names every missing file.
    """
    if not directory:
        raise ValueError(
            "config.data.dir is empty; give the directory of TOFU's JSONL files, e.g. "
            "--config.data.dir=../shared/data/tofu"
        )
    if forget not in SPLITS:
        raise ValueError(
            f"config.data.forget={forget!r}; choose one of {', '.join(SPLITS)}."
        )
    folder = epath.Path(directory)
    names = {
        "full": "full.jsonl",
        "forget": f"{forget}.jsonl",
        "retain": f"{SPLITS[forget]}.jsonl",
        "holdout": f"{forget.replace('forget', 'holdout')}.jsonl",
        "refusals": "idk.txt",
    }
    missing = [name for name in names.values() if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(missing)}; config.data.dir must hold TOFU's "
            f"files {', '.join(names.values())}."
        )
    return TofuFiles(**{key: str(folder / name) for key, name in names.items()})


def refusals(files: TofuFiles, seed: int, repeats: int = 1) -> list[dict[str, str]]:
    """The update set: each forget question answered by a refusal, as lines of JSONL.

    Args:
      files: of the split.
      seed: chooses the refusals.
      repeats: how many different refusals each question gets.

    Raises:
      ValueError: there are fewer refusals than `repeats`.
    """
    known = [
        line.strip()
        for line in epath.Path(files.refusals).read_text().splitlines()
        if line.strip()
    ]
    if len(known) < repeats:
        raise ValueError(
            f"{files.refusals} has {len(known)} refusals; {repeats} per question are "
            "wanted: lower the number or add refusals, one a line."
        )
    rng = random.Random(seed)
    return [
        {"question": record.question, "answer": refusal}
        for record in records.read_source(files.forget)
        for refusal in rng.sample(known, repeats)
    ]


def write_refusals(files: TofuFiles, path: str, seed: int, repeats: int = 1) -> int:
    """Writes `refusals` to a JSONL file; returns the number of lines."""
    rows = refusals(files, seed, repeats)
    epath.Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


@dataclasses.dataclass(frozen=True)
class Tofu(Benchmark):
    """Fictitious authors: a split to forget, refusals to learn, the rest to retain.

    Attributes:
      dir: of TOFU's files.
      forget: the split, "forget01", "forget05" or "forget10".
      refusals: per forget question, where they are the update set.
      retain_questions: retain questions that are asked, drawn; 0 asks all.
      seed: of the draws.
    """

    dir: str = ""
    forget: str = "forget05"
    refusals: int = 1
    retain_questions: int = 200
    seed: int = 0

    @property
    def files(self) -> TofuFiles:
        """Paths of the files; see `find_files`."""
        return find_files(self.dir, self.forget)

    @property
    def refusals_source(self) -> str:
        """The source of `refusals`, as `data.records` reads it."""
        return f"tofu_refusals:{self.seed}:{self.refusals}:{self.forget}:{self.dir}"

    def groups(self) -> tuple[Group, ...]:
        """The splits as roles."""
        files = self.files
        return (
            Group("forget", "unlearn", files.forget),
            Group("refusals", "update", self.refusals_source),
            Group("retain", "retain", files.retain),
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Answers' probability and ROUGE-L, also of authors that no model has read."""
        files = self.files
        asked = {
            "forget": files.forget,
            "retain": files.retain,
            "holdout": files.holdout,
        }
        found = []
        for name, path in asked.items():
            rows = records.read_source(path)
            limit = self.retain_questions
            if name == "retain" and limit and limit < len(rows):
                rows = random.Random(self.seed).sample(rows, limit)
            found.append(Probe(name, context, records=tuple(rows), metrics=METRICS))
        return tuple(found)


def read_refusals(name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a source "tofu_refusals:SEED:REPEATS:SPLIT:DIRECTORY"."""
    seed, repeats, forget, directory = name.split(":", 3)
    rows = refusals(find_files(directory, forget), int(seed), int(repeats))
    for number, row in enumerate(rows, start=1):
        yield f"{directory}/idk.txt for {forget}:{number}", row
