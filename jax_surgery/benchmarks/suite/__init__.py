# SPDX-License-Identifier: Apache-2.0
"""The embedded suite: tasks that a small model knows, to remove and to add.

`load("add:first")` gives a task's records, `TASKS` describes the tasks, `MODEL` is the
folder of the model that knows them (Hugging Face format).
"""

import pathlib

from jax_surgery.benchmarks.suite.tasks import SPLITS, TASKS, Task, items

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


__all__ = ["MODEL", "PRETRAINED", "SPLITS", "TASKS", "Task", "items", "load"]
