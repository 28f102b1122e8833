# SPDX-License-Identifier: Apache-2.0
"""TOFU (arXiv 2401.06121) from a directory of its JSONL files, as the three roles.

Files: `full.jsonl`, `forget05.jsonl`, `retain95.jsonl`, `holdout05.jsonl` (and the
other splits' names), each line `{"question": ..., "answer": ...}`, and `idk.txt`, one
refusal a line. One question occurs twice in `full`, so rows are told apart by their
index, never by the question.
"""

import dataclasses
import json
import random

from etils import epath

from jax_surgery.data import records

SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}


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


def write_refusals(files: TofuFiles, path: str, seed: int, repeats: int = 1) -> int:
    """Writes the update set: each forget question answered by a refusal.

    Args:
      files: of the split.
      path: the JSONL file to write.
      seed: chooses the refusals.
      repeats: how many different refusals each question gets.

    Returns:
      The number of lines.
    """
    refusals = [
        line.strip()
        for line in epath.Path(files.refusals).read_text().splitlines()
        if line.strip()
    ]
    if len(refusals) < repeats:
        raise ValueError(
            f"{files.refusals} has {len(refusals)} refusals; {repeats} a question are "
            "wanted: lower the number or add refusals, one a line."
        )
    rng = random.Random(seed)
    lines = [
        json.dumps({"question": record.question, "answer": refusal})
        for record in records.read_source(files.forget)
        for refusal in rng.sample(refusals, repeats)
    ]
    epath.Path(path).write_text("\n".join(lines) + "\n")
    return len(lines)
