# SPDX-License-Identifier: Apache-2.0
"""Tasks: named data sets with a scorer, to remove, to add or to retain.

A tasks file is JSONL, one task per line:

    {"name": "addresses", "data": "addresses.jsonl", "family": "personal"}
    {"name": "law", "data": "law.jsonl", "scorer": "choice", "test": "law_questions.jsonl"}

    name     of the task
    data     sources of its text (see `records`), comma-separated; files as seen from
             where the run is started, or from the folder of the tasks file
    test     what it is scored on: sources, or a questions file ("choice"); data itself
             where left out
    scorer   "accuracy", of the answers' tokens, each given those before it (default);
             "choice", of multiple-choice questions; "likelihood", the geometric mean of
             the answers' tokens' probabilities
    chance   the score of a model that does not know the task; 0 where left out, and one
             in as many as there are options for "choice"
    family   tasks of the same family are similar
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.benchmarks import suite
from jax_surgery.benchmarks.base import SCORERS, group_probe, text_probe
from jax_surgery.config import names
from jax_surgery.data import overlap, prompts, records
from jax_surgery.data.forms import Record, hint
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.sources import (
    MAX_ERRORS_SHOWN,
    PACKAGED,
    parse_rows,
    read_jsonl,
)
from jax_surgery.data.tokens import Document

# The fields of a line; a run gives each task its role.
FIELDS = ("name", "data", "test", "scorer", "chance", "family")


@dataclasses.dataclass(frozen=True, eq=False)
class GroupText:
    """A group's text as tokens.

    Attributes:
      group: the group.
      documents: the text that identifies it; their last token, eos, is not learned.
      probe: what it is scored on, its text as documents too.
      records: what the documents were made of; () where they came as such.
      ends: of each document the log-odds at which removing its tokens ends, nats,
        float32 [tokens]; () where they end at chance.
    """

    group: Group
    documents: tuple[Document, ...]
    probe: Probe
    records: tuple[Record, ...] = ()
    ends: tuple[np.ndarray, ...] = ()

    @property
    def chance(self) -> float:
        """The score of a model that does not know the group."""
        return self.probe.chance or 0.0


def of_documents(
    group: Group, documents: Sequence[Document], context: int
) -> GroupText:
    """A group that is scored on the very text that identifies it."""
    probe = text_probe(group, (), context)
    text = tuple(documents)
    return GroupText(group, text, dataclasses.replace(probe, documents=text))


def read_tasks(source: str) -> dict[str, Group]:
    """The tasks of a file, or of the suite, by name.

    Args:
      source: "suite", or a JSONL file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: malformed lines, or two tasks of a name.
    """
    if source == "suite":
        return {name: suite.group_of(name) for name in suite.TASKS}
    use = "use 'suite' or a JSONL file of tasks."
    if not source.endswith((".jsonl", ".json")):
        raise ValueError(f"config.tasks.source={source!r}; {use}")
    found: dict[str, Group] = {}
    folder = epath.Path(source).parent

    def add(row: Any, where: str) -> None:
        del where  # errors are given it by `parse_rows`
        task = _beside(_parse(row), folder)
        if task.name in found:
            raise ValueError(f"there are two tasks named {task.name!r}.")
        found[task.name] = task

    missing = f"config.tasks.source={source!r} does not exist; {use}"
    parse_rows(read_jsonl(source, missing), add, source)
    if not found:
        raise ValueError(f"{source} has no tasks; it needs one a line.")
    return found


def _parse(row: Any) -> Group:
    if not isinstance(row, Mapping) or not {"name", "data"} <= set(row):
        raise ValueError(
            "a task is an object with name and data, and may have "
            f"{', '.join(FIELDS[2:])}."
        )
    for key, value in row.items():
        if key not in FIELDS:
            raise ValueError(
                f"unknown field {key!r}{hint(key, FIELDS)}; a task has "
                f"{', '.join(FIELDS)}."
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if key == "chance" else isinstance(value, str)):
            kind = "number" if key == "chance" else "string"
            raise ValueError(f"{key}={value!r} must be a {kind}.")
    chance = float(row.get("chance", 0.0))
    task = Group(**dict(row) | {"chance": chance}, role="retain")
    if not names(task.data):
        raise ValueError(f"data={task.data!r} names no source of text.")
    if task.scorer not in SCORERS:
        raise ValueError(f"scorer={task.scorer!r}; choose one of {', '.join(SCORERS)}.")
    if not 0 <= task.chance < 1:
        raise ValueError(f"chance={task.chance}; use 0 to below 1.")
    if task.scorer == "choice" and not task.test:
        raise ValueError("scorer 'choice' needs test, a questions file.")
    if any(mark in task.name for mark in ",;") or not task.name.strip():
        raise ValueError(f"name={task.name!r} must be a word without , and ;.")
    for field in ("name", "family"):
        if not (value := getattr(task, field)).isprintable():
            raise ValueError(f"{field}={value!r} must be printable.")
    return task


def _beside(task: Group, folder: epath.Path) -> Group:
    """The task, its files found beside the tasks file where they are not found from here.

    Raises:
      ValueError: both places have such a file.
    """
    found: dict[str, Any] = {
        field: ",".join(_find(name, folder) for name in names(getattr(task, field)))
        for field in ("data", "test")
    }
    return dataclasses.replace(task, **found)


def _find(source: str, folder: epath.Path) -> str:
    """A source whose relative path is one from here."""
    base, mark, columns = source.partition("#")
    if base in PACKAGED:  # even where a file beside the tasks has that name
        return source
    kind, colon, path = base.partition(":")
    if not colon:
        kind, path = "", base
    elif kind not in ("hf", "tfds"):  # of a benchmark, or a file with such a name
        return source
    # Of a saved data set its split may follow.
    path, split, rest = path.partition(":")
    there = folder / path
    here = epath.Path(path)
    if "://" in base or here.is_absolute() or not there.exists():
        return source
    if not here.exists():
        return f"{kind}{colon}{there}{split}{rest}{mark}{columns}"
    if str(folder) in (".", "") or here.resolve() == there.resolve():
        return source
    raise ValueError(
        f"{path!r} is a file here and also {str(there)!r}, beside the tasks file; "
        "give its whole path."
    )


def read_text(
    task: Group, tokenizer: Any, context: int, chat: AsChat = "auto"
) -> GroupText:
    """Reads and tokenises a task.

    Args:
      chat: whether its questions are asked in the model's chat template.

    Raises:
      FileNotFoundError, ValueError: see `records`, `questions` and
        `prompts.asks_as_chat`; names the task.
    """
    try:
        read = records.read_role(task.data, task.name)
        own = text_probe(task, read, context).encoded(tokenizer)
        tested = group_probe(task, context).encoded(tokenizer) if task.test else own
        if tested.questions:
            prompts.asks_as_chat(tokenizer, chat)  # raises before a model is loaded
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"task {task.name!r}: {error}") from error
    asked = dataclasses.replace(tested, chat=chat)
    return GroupText(task, own.documents, asked, tuple(read))


def check_overlap(texts: Mapping[str, GroupText], tokenizer: Any) -> None:
    """Refuses a task to unlearn that shares a text with one which is retained, and warns
    of one to learn that does.

    Raises:
      ValueError: names the two tasks.
    """
    kept = {n: text for n, text in texts.items() if text.group.role == "retain"}
    for name, text in texts.items():
        for other, retained in kept.items() if text.group.role != "retain" else ():
            both = overlap.find(text.records, retained.records, tokenizer)
            if not both:
                continue
            said = (
                f"{len(both)} texts are in both {name!r}, a target, and {other!r}, which "
                f"is retained: {'; '.join(both[:MAX_ERRORS_SHOWN])}. Take them out of one "
                "of the two."
            )
            if text.group.role == "unlearn":
                raise ValueError(said)
            warnings.warn(said, stacklevel=2)


def similar_to(targets: list[str], tasks: Mapping[str, Group], named: str) -> set[str]:
    """The retained tasks that are similar to the targets.

    Args:
      targets: names of the tasks that are removed or added.
      tasks: all, by name.
      named: "family", or names, comma-separated.

    Raises:
      ValueError: an unknown name, or a target among them.
    """
    if named == "family":
        families = {tasks[name].family for name in targets} - {""}
        return {n for n, t in tasks.items() if t.family in families} - set(targets)
    chosen = set(names(named))
    for name in sorted(chosen):
        if name not in tasks:
            raise ValueError(
                f"config.tasks.similar names {name!r}; tasks are {', '.join(tasks)}."
            )
        if name in targets:
            raise ValueError(f"config.tasks.similar names the target {name!r}.")
    return chosen
