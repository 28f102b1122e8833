# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: TRY004, a bad cell is a ValueError whatever is wrong with it
"""LLM Surgery (arXiv 2409.13054) from the files that its authors published.

    gpt4_wiki_bios_full_evaluation_benchmark.csv       a person a row: the text to unlearn
        and its replacement (`wiki_bio_text`, `gpt4_bio_text`), with questions about each
        (`wiki_bio_text_qa`, `gpt4_inaccurate_text_qa`)
    wiki_bio_concepts.txt                              the persons' names, one a line
    openwebtext-10k.csv                                text to retain (`text`)
    gpt4_evaluation_benchmark_2200owt10k_mcqa.csv      questions about it (`qa`)
    arc_easy_test.csv, arc_easy_validation.csv         general ability, where they are there
        (`question`, `choices`, `answerKey`)

The first half of the persons is obsolete, and their replacements are the update; the second
half is problematic. A cell of questions is a list of {"Q", "option1" to "option3",
"correct answer"}. Half of each cell's questions are for validation, half for the test, as
sklearn's train_test_split(test_size=0.5, random_state=42) has them. The option of the lowest
perplexity counts as the answer. What is malformed is left out, counted, and warned of.
"""

import ast
import csv
import dataclasses
import functools
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.benchmarks.base import SCORERS, Benchmark, Target
from jax_surgery.config import choice
from jax_surgery.data import records
from jax_surgery.data.groups import Group, Role
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.sources import MAX_ERRORS_SHOWN

BIOS = "gpt4_wiki_bios_full_evaluation_benchmark.csv"
CONCEPTS = "wiki_bio_concepts.txt"
TEXTS = "openwebtext-10k.csv"
QUESTIONS = "gpt4_evaluation_benchmark_2200owt10k_mcqa.csv"
ARC = "arc_easy_{split}.csv"
HEADER = "This is a Wikipedia passage about {name}. {text}"
OBSOLETE = 0.5  # share of the persons, the first ones
RETAINED = 2079  # rows of the files of retained text that are read, less DROPPED
# fmt: off
DROPPED = frozenset((
    11, 72, 73, 100, 103, 107, 134, 153, 167, 170, 183, 235, 288, 307, 315, 320, 351, 372,
    375, 379, 387, 397, 418, 449, 454, 477, 527, 533, 547, 627, 656, 719, 760, 791, 797, 802,
    824, 878, 910, 942, 946, 1008, 1046, 1093, 1105, 1121, 1125, 1239, 1256, 1281, 1330, 1339,
    1380, 1389, 1393, 1399, 1450, 1522, 1617, 1644, 1652, 1670, 1677, 1699, 1714, 1734, 1754,
    1797, 1813, 1845, 1879, 1917, 1942, 1953, 1960, 2029, 2036,
))
# fmt: on
SPLIT_SEED = 42
OPTIONS = ("option1", "option2", "option3")
ROLES: dict[str, Role] = {
    "problematic": "unlearn",
    "obsolete": "unlearn",
    "update": "update",
    "retain": "retain",
}
# Of each set the file, and the columns of its text and of its questions.
COLUMNS = {
    "problematic": (BIOS, "wiki_bio_text", "wiki_bio_text_qa"),
    "obsolete": (BIOS, "wiki_bio_text", "wiki_bio_text_qa"),
    "update": (BIOS, "gpt4_bio_text", "gpt4_inaccurate_text_qa"),
    "retain": (TEXTS, "text", "qa"),
}
Split = Literal["test", "validation"]


class Cell(NamedTuple):
    """A cell of a file, and where it stands there."""

    where: str
    row: int  # of the file, from 0, without the line of names
    value: str


def _lines(folder: str, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, or lacks a column.
    """
    file = epath.Path(folder) / name
    if not file.exists():
        raise FileNotFoundError(
            f"{folder} lacks {name}; config.data.paper (of a benchmark: "
            "config.benchmark=paper:dir=DIR) is a folder of the files that LLM Surgery's "
            f"authors published: {BIOS}, {CONCEPTS}, {TEXTS} and {QUESTIONS}."
        )
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it so.") from None
    csv.field_size_limit(sys.maxsize)  # web pages are longer than its 128 KiB
    rows = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [column for column in columns if column not in (rows.fieldnames or ())]
    if lacking:
        raise ValueError(
            f"{file} has no column {lacking[0]!r}; it has "
            f"{', '.join(map(str, rows.fieldnames or ())) or 'none'}."
        )
    return list(rows)


def _cells(folder: str, name: str, column: str) -> list[Cell]:
    """The cells of a column that belong to a set of the paper."""
    file = QUESTIONS if column == "qa" else COLUMNS[name][0]
    rows = _lines(folder, file, [column])
    if name == "retain":
        places = [i for i in range(min(RETAINED, len(rows))) if i not in DROPPED]
    else:
        first = int(OBSOLETE * len(rows))
        ranges = {"problematic": range(first, len(rows))}
        places = [*ranges.get(name, range(first))]
    return [
        Cell(f"{file}:row {i + 1}, {column}", i, rows[i][column] or "") for i in places
    ]


def _report(what: str, bad: Sequence[str], count: int) -> None:
    """Warns of what is malformed."""
    if not bad:
        return
    shown, more = bad[:MAX_ERRORS_SHOWN], len(bad) - MAX_ERRORS_SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    warnings.warn(
        f"{len(bad)} of {count} {what} are malformed and were left out: "
        f"{'; '.join(shown)}{rest}.",
        stacklevel=3,
    )


def _names(folder: str) -> list[str]:
    file = epath.Path(folder) / CONCEPTS
    if not file.exists():
        raise FileNotFoundError(f"{folder} lacks {CONCEPTS}, the persons' names.")
    lines = file.read_bytes().decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def load(source: str) -> Iterator[dict[str, str]]:
    """The texts of a set: the source "paper:NAME:DIR".

    Raises:
      FileNotFoundError, ValueError: a missing file or column, an unknown set, persons
        without names, or a set without text.
    """
    name, _, folder = source.partition(":")
    choice(name, tuple(ROLES), f"data source 'paper:{source}', the set")
    cells = _cells(folder, name, COLUMNS[name][1])
    bad = [f"{cell.where} is empty" for cell in cells if not cell.value.strip()]
    _report(f"texts of {name}", bad, len(cells))
    texts = [cell for cell in cells if cell.value.strip()]
    if not texts:
        raise ValueError(f"data source 'paper:{source}' has no text.")
    names = _names(folder) if name != "retain" else []
    for cell in texts:
        if name == "retain":
            yield {"text": cell.value}
        elif cell.row < len(names):
            yield {"text": HEADER.format(name=names[cell.row], text=cell.value)}
        else:
            raise ValueError(
                f"{folder}/{CONCEPTS} has {len(names)} names, and {BIOS} has a row "
                f"{cell.row + 1}; each row is a person, with a name a line."
            )


def in_split(count: int, split: Split) -> list[int]:
    """The places of a split among `count` questions, as sklearn draws them."""
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    test = -(-count // 2)
    return order[:test].tolist() if split == "test" else order[test:].tolist()


def _literal(text: str) -> Any:
    """A Python literal.

    Raises:
      ValueError: it is none.
    """
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"is no Python literal ({type(error).__name__})") from None


def _choice(item: Any) -> tuple[str, list[str], int]:
    """Question, options and the right option's index of an entry of a cell.

    Raises:
      ValueError: says what is wrong.
    """
    needed = ("Q", *OPTIONS, "correct answer")
    if not isinstance(item, Mapping):
        raise ValueError(f"is a {type(item).__name__} and no dictionary")
    for field in needed:
        if not isinstance(item.get(field), str) or not item[field].strip():
            raise ValueError(f"has no text for {field!r}")
    options, right = [item[name] for name in OPTIONS], item["correct answer"]
    found = OPTIONS.index(right) if right in OPTIONS else -1
    if found < 0 and right in options:
        found = options.index(right)
    if found < 0:
        raise ValueError(f"names {right!r}, which is no option, as correct answer")
    if len({option.strip() for option in options}) < len(options):
        raise ValueError("has two equal options")
    return item["Q"], options, found


def _question(
    group: str, number: str, asked: tuple[str, Sequence[str], int]
) -> Question:
    text, options, right = asked
    return Question(
        id=f"{group}-{number}",
        group=group,
        wording="unseen",
        prompt=text.strip(),
        options=tuple(f" {option.strip()}" for option in options),
        answer=right,
        scoring="perplexity",
    )


@functools.lru_cache(maxsize=16)
def questions_of(folder: str, name: str, split: Split) -> tuple[Question, ...]:
    """The questions of a set that are in a split.

    Raises:
      FileNotFoundError, ValueError: see `_lines`, or none is well formed.
    """
    return tuple(question for _, question in _of_persons(folder, name, split))


def _of_persons(folder: str, name: str, split: Split) -> list[tuple[int, Question]]:
    """(row of the file, question) of a set."""
    cells = _cells(folder, name, COLUMNS[name][2])
    found: list[tuple[int, Question]] = []
    bad: list[str] = []
    total = 0
    for cell in cells:
        total += 1
        try:
            entries = _literal(cell.value)
            if not isinstance(entries, list) or not entries:
                raise ValueError("is no list of questions")
        except ValueError as error:
            bad.append(f"{cell.where} {error}")
            continue
        total += len(entries) - 1
        for place in in_split(len(entries), split):
            try:
                number = f"{cell.row + 1}-{place + 1}"
                asked = _choice(entries[place])
                found.append((cell.row, _question(name, number, asked)))
            except ValueError as error:
                bad.append(f"{cell.where}, question {place + 1} {error}")
    _report(f"cells and questions of {name}", bad, total)
    if not found:
        raise ValueError(
            f"{folder}: no question about {name} is well formed; "
            f"{'; '.join(bad[:MAX_ERRORS_SHOWN]) or 'there is none'}."
        )
    return found


@functools.lru_cache(maxsize=4)
def arc_easy(folder: str, split: Split) -> tuple[Question, ...]:
    """ARC-Easy's questions of four options; () where the file is not there."""
    file = ARC.format(split=split)
    if not (epath.Path(folder) / file).exists():
        return ()
    rows = _lines(folder, file, ("question", "choices", "answerKey"))
    found, bad = [], []
    for number, row in enumerate(rows, start=1):
        try:
            choices = _literal(row["choices"] or "")
            texts, labels = choices["text"], choices["label"]
            if len(labels) == 4:
                asked = (row["question"], texts, labels.index(row["answerKey"]))
                found.append(_question("general", str(number), asked))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad.append(f"{file}:row {number} {error}")
    _report("questions of ARC-Easy", bad, len(rows))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Paper(Benchmark):
    """Biographies to unlearn and to replace, and web text to retain.

    Attributes:
      dir: of the files.
      split: which half of each document's questions is asked.
    """

    dir: str = ""
    split: Split = "test"

    def groups(self) -> tuple[Group, ...]:
        """The four streams."""
        if not self.dir:
            raise ValueError(
                "the benchmark paper needs the folder of the authors' files; give "
                "config.benchmark=paper:dir=DIR (of a surgery: config.data.paper=DIR)."
            )
        return tuple(
            Group(name, role, f"paper:{name}:{self.dir}", chance=1 / len(OPTIONS))
            for name, role in ROLES.items()
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Questions about each stream, and ARC-Easy's where the file is there."""
        self.groups()  # raises without a folder
        asked = {name: questions_of(self.dir, name, self.split) for name in ROLES}
        if general := arc_easy(self.dir, self.split):
            asked["general"] = general
        return tuple(_probe(name, context, own) for name, own in asked.items())

    def target(self, context: int, seed: int) -> Target:
        """The adversary has the texts of half of the persons of each group to be
        unlearned, drawn, and is asked about the others."""
        shown: list[records.Record] = []
        probes = []
        for name in (group.name for group in self.groups() if group.role == "unlearn"):
            read = records.read_source(f"paper:{name}:{self.dir}")
            asked = _of_persons(self.dir, name, self.split)
            cells = _cells(self.dir, name, COLUMNS[name][1])
            persons = [cell.row for cell in cells if cell.value.strip()]
            order = np.random.default_rng(seed).permutation(len(persons))
            half = {*order[: len(persons) // 2].tolist()}
            shown += [record for i, record in enumerate(read) if i in half]
            held = {persons[i] for i in range(len(persons)) if i not in half}
            own = tuple(question for row, question in asked if row in held)
            probes.append(_probe(name, context, own))
        return Target(tuple(shown), tuple(probes), context)


def _probe(name: str, context: int, questions: tuple[Question, ...]) -> Probe:
    return Probe(name, context, questions, metrics=(SCORERS["choice"],))
