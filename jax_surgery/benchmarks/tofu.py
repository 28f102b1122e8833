# SPDX-License-Identifier: Apache-2.0
"""TOFU (arXiv 2401.06121) from a directory of its JSONL files, as the three roles.

Files: `full.jsonl`, `forget05.jsonl`, `retain95.jsonl`, `holdout05.jsonl` (and the
other splits' names), each line `{"question": ..., "answer": ...}`, and `idk.txt`, one
refusal per line. One question occurs twice in `full`, so rows are told apart by their
index, never by the question.

What TOFU's own scores ask (`metrics.tofu`) stands in `forget05_perturbed.jsonl`,
`retain_perturbed.jsonl`, `real_authors_perturbed.jsonl` and `world_facts_perturbed.jsonl`,
whose lines have a list `perturbed_answer` of wrong answers, and of the first two a
`paraphrased_answer`.
"""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

from etils import epath

from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.data import records, sources
from jax_surgery.data.forms import Record, parse_record
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe

SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
METRICS = ("answer_probability", "rouge_l")
PARAPHRASED = ("forget", "retain")  # splits of which an answer is said in other words


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, and the answers to it that TOFU's scores compare.

    Attributes:
      answer: the right one.
      paraphrased: the same in other words; None where the split has none.
      perturbed: wrong ones, of the same number for each question of a split; () of
        held-out people.
    """

    answer: Record
    paraphrased: Record | None
    perturbed: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Tofu(Benchmark):
    """Fictitious authors: a split to forget, refusals to learn, the rest to retain.

    Attributes:
      dir: of TOFU's files.
      forget: the split, "forget01", "forget05" or "forget10".
      refusals: per forget question, where they are the update set.
      retain_questions: retain questions that are asked, drawn; 0 asks all.
      seed: of the draws.
      first: questions of each split that TOFU's own scores ask, the first ones (300 in its
        authors' logs); 0 asks all.
      retain_log: of a model that never read the forget split: the `tofu_log.json` of its
        evaluation, to which forget quality compares; "" leaves it out.
    """

    dir: str = ""
    forget: str = "forget05"
    refusals: int = 1
    retain_questions: int = 200
    seed: int = 0
    first: int = 0
    retain_log: str = ""

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
        names = {
            "full": "full.jsonl",
            "forget": f"{self.forget}.jsonl",
            "retain": f"{SPLITS[self.forget]}.jsonl",
            "holdout": f"{self.forget.replace('forget', 'holdout')}.jsonl",
            "refusals": "idk.txt",
        }
        return self._there(names)

    def _there(self, names: dict[str, str]) -> dict[str, str]:
        """Paths of files of the directory, each of which must be there."""
        folder = epath.Path(self.dir)
        missing = [name for name in names.values() if not (folder / name).exists()]
        if missing:
            raise FileNotFoundError(
                f"{self.dir} lacks {', '.join(missing)}; give a directory "
                f"(config.data.dir, or config.benchmark=tofu:dir=DIR) with TOFU's files "
                f"{', '.join(names.values())}."
            )
        return {key: str(folder / name) for key, name in names.items()}

    @property
    def spec(self) -> str:
        """The benchmark as a config names it, without what its own scores alone read."""
        own = ("dir", "forget", "refusals", "retain_questions", "seed")
        return "tofu:" + ",".join(f"{name}={getattr(self, name)}" for name in own)

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

    def asked(self) -> dict[str, tuple[Asked, ...]]:
        """What TOFU's own scores ask, by split: forget, retain, real_authors, world_facts,
        and of people whom no model has read about holdout.

        Raises:
          FileNotFoundError, ValueError: files are absent or malformed; see `files`.
        """
        holdout = self.files["holdout"]
        names = ("retain", "real_authors", "world_facts")
        perturbed = {name: f"{name}_perturbed.jsonl" for name in names}
        files = self._there({"forget": f"{self.forget}_perturbed.jsonl"} | perturbed)
        most = self.first or None
        found = {n: _read_perturbed(files[n], n in PARAPHRASED)[:most] for n in files}
        alone = [Asked(record, None, ()) for record in records.read_source(holdout)]
        return found | {"holdout": tuple(alone[:most])}


def _read_perturbed(path: str, paraphrased: bool) -> tuple[Asked, ...]:
    """The questions of a file of wrong answers.

    Args:
      paraphrased: whether each has its answer in other words.

    Raises:
      ValueError: a row lacks a field, or has another number of wrong answers.
    """

    def parse(row: Any, where: str) -> Asked:
        wrong = row.get("perturbed_answer") if isinstance(row, dict) else None
        if not isinstance(wrong, list) or not wrong:
            raise ValueError("perturbed_answer must be a list of wrong answers")

        def said(answer: Any) -> Record:
            question = {"question": row.get("question"), "answer": answer}
            return parse_record(question, where)

        other = said(row.get("paraphrased_answer")) if paraphrased else None
        return Asked(said(row.get("answer")), other, tuple(map(said, wrong)))

    found = sources.parse_rows(sources.read_jsonl(path, path), parse, path)
    counts = {len(asked.perturbed) for asked in found}
    if len(counts) != 1:
        raise ValueError(
            f"{path} has {', '.join(map(str, sorted(counts))) or 'no'} wrong answers a "
            "question; give each question as many."
        )
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
