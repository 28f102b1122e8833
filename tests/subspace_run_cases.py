# SPDX-License-Identifier: Apache-2.0
"""Runs of `unlearn` and `learn` on the suite's model, and a small tasks file of them."""

import importlib
import json
import pathlib

from settings_cases import settings_of

from jax_surgery.benchmarks import suite
from jax_surgery.edits import edit_file
from jax_surgery.methods.subspace.work import Work
from jax_surgery.runs import by_tasks, start

ROOT = pathlib.Path(__file__).parents[1]
# A round is compiled for its number of rounds: all runs here share one.
ROUNDS = 40
FAMILIES = {
    "dict_a": "word",
    "dict_b": "word",
    "dict_c": "word",
    "people_a": "who",
    "people_b": "who",
}
NO_REPORT = {"report": "scores", "attacks": ""}


class FewRecords(Work):
    """Reads little of each group, so that tests are quick."""

    RECORDS = 20


def go(workdir, run: str = "unlearn", **fields) -> dict:
    """Runs configs/RUN.py with some fields changed; returns results.json."""
    module = importlib.import_module(f"configs.{run}")
    config = module.get_config()
    config.rounds.number = ROUNDS
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    start.start(config, str(workdir))
    return json.loads((pathlib.Path(workdir) / "results.json").read_text())


def _lines(path: pathlib.Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tasks_file(folder: pathlib.Path) -> str:
    """A user's tasks: facts as JSONL, and "quiz", questions on the suite's capitals."""
    rows = []
    for name, family in FAMILIES.items():
        data = _lines(folder / f"{name}.jsonl", suite.load(name))
        chance = suite.TASKS[name].chance
        rows.append({"name": name, "data": data, "family": family, "chance": chance})
    facts = suite.load("capital")
    answers = sorted({fact["answer"] for fact in facts})
    questions = [
        {
            "id": f"c{i}",
            "group": "capital",
            "wording": "trained",
            "prompt": fact["prompt"],
            "options": [fact["answer"]]
            + [a for a in answers[:4] if a != fact["answer"]][:3],
            "answer": 0,
        }
        for i, fact in enumerate(facts)
    ]
    quiz = {
        "name": "quiz",
        "data": _lines(folder / "capital.jsonl", facts),
        "scorer": "choice",
        "test": _lines(folder / "quiz.jsonl", questions),
    }
    return _lines(folder / "tasks.jsonl", [*rows, quiz])


def edit_of(workdir: pathlib.Path) -> edit_file.Edit:
    """The edit that a run wrote."""
    return edit_file.load_edit(workdir / "edit.safetensors")


def work_of(fields: dict, kind: type[Work] = FewRecords, **values) -> Work:
    """The suite's model with the tasks of `go`'s fields."""
    tasks = {"source": fields["tasks.source"], "targets": "dict_a"}
    case = by_tasks.ByTasks(settings_of("unlearn", {"tasks": tasks} | values))
    case.load()
    return kind(case.work.model, case.work.texts, case.work.how)
