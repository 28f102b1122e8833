# SPDX-License-Identifier: Apache-2.0
"""TOFU (arXiv 2401.06121) from a directory of its JSONL files, as the three roles.

Files: `full.jsonl`, `forget05.jsonl`, `retain95.jsonl`, `holdout05.jsonl` (and the
other splits' names), each line `{"question": ..., "answer": ...}`, and `idk.txt`, one
refusal per line. One question occurs twice in `full`, so rows are told apart by their
index, never by the question.
"""

import dataclasses
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
    def files(self) -> dict[str, str]:
        """Paths of the files: full, forget, retain, holdout and refusals.

        Raises:
          ValueError: an unknown split, or no directory given.
          FileNotFoundError: names every missing file.
        """
        if not self.dir:
            raise ValueError(
                "config.data.dir is empty; give the directory of TOFU's JSONL files "
                "(of a benchmark: config.benchmark=tofu:dir=DIR)."
            )
        if self.forget not in SPLITS:
            raise ValueError(
                f"config.data.forget={self.forget!r}; choose one of {', '.join(SPLITS)}."
            )
        folder = epath.Path(self.dir)
        names = {
            "full": "full.jsonl",
            "forget": f"{self.forget}.jsonl",
            "retain": f"{SPLITS[self.forget]}.jsonl",
            "holdout": f"{self.forget.replace('forget', 'holdout')}.jsonl",
            "refusals": "idk.txt",
        }
        missing = [name for name in names.values() if not (folder / name).exists()]
        if missing:
            raise FileNotFoundError(
                f"{self.dir} lacks {', '.join(missing)}; give a directory "
                f"(config.data.dir, or config.benchmark=tofu:dir=DIR) with TOFU's files "
                f"{', '.join(names.values())}."
            )
        return {key: str(folder / name) for key, name in names.items()}

    @property
    def refusals_source(self) -> str:
        """The source of `refusals`, as `data.records` reads it."""
        return f"tofu_refusals:{self.seed}:{self.refusals}:{self.forget}:{self.dir}"

    def groups(self) -> tuple[Group, ...]:
        """The splits as roles."""
        files = self.files
        return (
            Group("forget", "unlearn", files["forget"]),
            Group("refusals", "update", self.refusals_source),
            Group("retain", "retain", files["retain"]),
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Answers' probability and ROUGE-L, also of authors that no model has read."""
        files, limit, found = self.files, self.retain_questions, []
        for name in ("forget", "retain", "holdout"):
            rows = records.read_source(files[name])
            if name == "retain" and limit and limit < len(rows):
                rows = random.Random(self.seed).sample(rows, limit)
            found.append(Probe(name, context, records=tuple(rows), metrics=METRICS))
        return tuple(found)


def read_refusals(name: str) -> Iterator[dict[str, str]]:
    """Each forget question with refusals: the source "tofu_refusals:SEED:COUNT:SPLIT:DIR".

    Raises:
      ValueError: there are fewer refusals than `COUNT`; or see `Tofu.files`.
    """
    seed, count, forget, directory = name.split(":", 3)
    files, wanted = Tofu(directory, forget).files, int(count)
    try:
        lines = epath.Path(files["refusals"]).read_bytes().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{files['refusals']} is not UTF-8 ({error}).") from None
    known = [line.strip() for line in lines if line.strip()]
    if len(known) < wanted:
        raise ValueError(
            f"{files['refusals']} has {len(known)} refusals; {wanted} per question are "
            "wanted: lower the number or add refusals, one a line."
        )
    rng = random.Random(int(seed))
    for record in records.read_source(files["forget"]):
        for refusal in rng.sample(known, wanted):
            yield {"question": record.question, "answer": refusal}
