# SPDX-License-Identifier: Apache-2.0
"""MUSE (Shi et al. 2024, arXiv 2407.06460): News or Books, from its public files.

A directory as the authors' repository has it, or the hub's data set, hf:muse-bench/MUSE-News:

    raw/{forget,retain1,...}                                 texts
    verbmem/forget                                           {"prompt", "gt"}
    knowmem/{forget,retain}_qa, {forget,retain}_qa_icl       {"question", "answer"}
    privleak/{forget,holdout}                                texts

as .json or .jsonl; a text is a string or {"text": ...}. VerbMem and KnowMem are of free
generation, the utility is KnowMem of the retained text, and PrivLeak is of likelihood
beside a model that never read the text (`config.reference_model` of configs/evaluate.py).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.data import sources
from jax_surgery.data.forms import Record, parse_record
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe

# What stands before a question, and around each example before it.
EXAMPLE = "Question: {question}\nAnswer: {answer}\n\n"
QUESTION = "Question: {question}\nAnswer: "


@dataclasses.dataclass(frozen=True)
class Muse(Benchmark):
    """A corpus to forget, one to retain, and what both hold.

    Attributes:
      dir: of MUSE's files, or hf:NAME.
      retain: the retained text in raw/, which a method may read.
    """

    dir: str = ""
    retain: str = "retain1"

    def rows(
        self, config: str, split: str, parse: Callable[[Any, str], Any]
    ) -> list[Any]:
        """The rows of a file.

        Raises:
          FileNotFoundError: it is not there.
          ValueError: no directory is given, malformed rows (the first few and how many),
            or no rows.
        """
        source = self._source(config, split)
        found = sources.parse_rows(sources.rows_of(source), parse, source)
        if not found:
            raise ValueError(f"{source} has no rows.")
        return found

    def _source(self, config: str, split: str) -> str:
        if not self.dir:
            raise ValueError(
                "muse has no directory; give it, --config.benchmark=muse:dir=DIR."
            )
        if self.dir.startswith("hf:"):
            return f"{self.dir}@{config}:{split}"
        files = [
            epath.Path(self.dir) / config / f"{split}{e}" for e in (".json", ".jsonl")
        ]
        for file in files:
            if file.exists():
                return str(file)
        raise FileNotFoundError(
            f"{files[0]} does not exist, and no {files[1].name} either; give a directory "
            "with MUSE's files (--config.benchmark=muse:dir=DIR), or hf:NAME."
        )

    def groups(self) -> tuple[Group, ...]:
        """The corpus to forget and the one to retain."""
        for split in ("forget", self.retain):
            self._source("raw", split)  # raises where it is not there
        return (
            Group("forget", "unlearn", f"muse:raw:forget:{self.dir}"),
            Group("retain", "retain", f"muse:raw:{self.retain}:{self.dir}"),
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """VerbMem, KnowMem of forgotten and of retained text, and what PrivLeak needs."""
        verbmem = self.rows("verbmem", "forget", _continuation)
        passages = lambda split: tuple(self.rows("privleak", split, text_record))
        how: Any = {"context": context, "chat": "never"}
        return (
            Probe("forget", records=tuple(verbmem), metrics=("verbmem",), **how),
            self._knowmem("forget_qa", role="unlearn", **how),
            self._knowmem("retain_qa", role="retain", **how),
            Probe(
                "privleak",
                records=passages("forget"),
                others=passages("holdout"),
                metrics=("min_k_auc",),
                comparisons=("privleak",),
                role="unlearn",
                **how,
            ),
        )

    def _knowmem(self, split: str, **how: Any) -> Probe:
        """Questions after the examples of their file."""
        shots = self.rows("knowmem", f"{split}_icl", _pair)
        before = "".join(EXAMPLE.format(question=q, answer=a) for q, a in shots)

        def record(row: Any, where: str) -> Record:
            question, answer = _pair(row, where)
            prompt = before + QUESTION.format(question=question)
            return parse_record({"prompt": prompt, "answer": answer}, where)

        asked = tuple(self.rows("knowmem", split, record))
        return Probe(split, records=asked, metrics=("knowmem",), **how)


def _fields(row: Any, *names: str) -> tuple[str, ...]:
    """Texts of a row."""
    given = [row.get(name) for name in names] if isinstance(row, dict) else []
    found = tuple(text for text in given if isinstance(text, str) and text.strip())
    if len(found) < len(names):
        raise ValueError(f"a row has texts named {' and '.join(names)}.")
    return found


def _pair(row: Any, where: str) -> tuple[str, ...]:
    del where  # errors are given it by `parse_rows`
    return _fields(row, "question", "answer")


def _continuation(row: Any, where: str) -> Record:
    prompt, answer = _fields(row, "prompt", "gt")
    return parse_record({"prompt": prompt, "answer": answer}, where)


def text_record(row: Any, where: str) -> Record:
    """A text, which is a string or {"text": ...}.

    Raises:
      ValueError: it is neither.
    """
    text = row if isinstance(row, str) else _fields(row, "text")[0]
    return parse_record({"text": text}, where)


def load(name: str) -> Iterator[dict[str, str]]:
    """The texts of the source "CONFIG:SPLIT:DIR".

    Raises:
      ValueError, FileNotFoundError: see `Muse.rows`.
    """
    config, split, directory = name.split(":", 2)
    read = Muse(directory).rows(config, split, text_record)
    return ({"text": record.answer} for record in read)
