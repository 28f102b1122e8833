# SPDX-License-Identifier: Apache-2.0
"""The embedded suite: tasks that a small model knows, to remove and to add.

`load("add:first")` gives a task's records, `TASKS` describes the tasks, `MODEL` is the
folder of the model that knows them (Hugging Face format).
"""

import dataclasses
import pathlib
from typing import ClassVar

from jax_surgery.benchmarks.base import Benchmark, Target, target_of
from jax_surgery.benchmarks.suite.tasks import SPLITS, TASKS, Task, items
from jax_surgery.data.groups import Group, Role

MODEL = pathlib.Path(__file__).parent / "model"
PRETRAINED = tuple(name for name, task in TASKS.items() if task.status != "new")
# What pretraining reads of each task: small tasks again and again, large ones in part.
RECORDS = 1000


def load(name: str) -> list[dict[str, str]]:
    """The records of TASK[:SPLIT], as lines of a JSONL file; the split is "all" where
    left out. "pretrain" is what the model of the suite is trained on, and
    "without:TASK+TASK" the same without those tasks.

    Raises:
      ValueError: an unknown task or split.
    """
    task, _, split = name.partition(":")
    if task in ("pretrain", "without"):
        left_out = split.split("+") if task == "without" else []
        for other in left_out:
            items(other, "all")  # raises where there is none
        used = [other for other in PRETRAINED if other not in left_out]
        return [row for other in used for row in _repeated(load(f"{other}:train"))]
    found = items(task, split or "all")
    return [
        {"prompt": TASKS[task].prompt(arguments), "answer": f" {answer}"}
        for arguments, answer in found
    ]


def _repeated(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return (rows * -(-RECORDS // len(rows)))[:RECORDS]


@dataclasses.dataclass(frozen=True)
class Suite(Benchmark):
    """Tasks to remove and to add, all others to retain.

    Attributes:
      targets: tasks that are removed, of those that the model knows.
      added: tasks that are added; of those the model knows none.
    """

    MODEL: ClassVar[str] = str(MODEL)

    targets: tuple[str, ...] = ("dict_a",)
    added: tuple[str, ...] = ()

    def __post_init__(self):
        for name in (*self.targets, *self.added):
            items(name, "all")  # raises where there is none
        if both := set(self.targets) & set(self.added):
            raise ValueError(f"suite: {min(both)!r} is both removed and added.")
        known = set(PRETRAINED)
        if unknown := [name for name in self.targets if name not in known]:
            raise ValueError(
                f"suite: the model does not know {unknown[0]!r}, so it cannot be "
                f"removed; choose among {', '.join(PRETRAINED)}."
            )

    def groups(self) -> tuple[Group, ...]:
        """The tasks that the model knows, and those that are added."""
        return self._groups(apart=False)

    def target(self, context: int, seed: int) -> Target:
        """The first half of the targets' items, and the second to ask."""
        del seed  # the halves are those of the suite
        return target_of(self._groups(apart=True), context, 0)

    def _groups(self, *, apart: bool) -> tuple[Group, ...]:
        groups: list[Group] = []
        for name in (*PRETRAINED, *self.added):
            role: Role = "unlearn" if name in self.targets else "retain"
            role = "update" if name in self.added else role
            groups.append(group_of(name, role, apart))
        return tuple(groups)


def group_of(name: str, role: Role = "retain", apart: bool = False) -> Group:
    """A task as a group of text.

    Args:
      apart: whether it is scored on other items than its text holds. Of what can be
        listed a model is to know every item, so that by default it is asked them all.
    """
    task = TASKS[name]
    halves = apart or not task.listed
    data, test = ("first", "second") if halves else ("all", "all")
    return Group(
        name,
        role,
        f"suite:{name}:{data}",
        f"suite:{name}:{test}",
        chance=task.chance,
        family=task.family,
    )


__all__ = ["MODEL", "PRETRAINED", "SPLITS", "TASKS", "Suite", "Task", "items", "load"]
