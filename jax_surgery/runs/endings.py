# SPDX-License-Identifier: Apache-2.0
"""The last lines of a run: where its report is, how to undo it, and how to go on.

What goes on is a command that can be copied as it stands, for the folder in which the run
was started. A run on edit files prints its own (`runs.patch`).
"""

import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from jax_surgery.benchmarks import BENCHMARKS
from jax_surgery.command_line import program, shown_path
from jax_surgery.config import names
from jax_surgery.data import streams
from jax_surgery.plugins import SEPARATOR

# Files of a workdir that are named where they are there.
LEFT = {
    "model": "model",
    "edit": "edit.safetensors",
    "adapter": "adapter",
    "results": "results.json",
    "report": "report/index.html",
}
# What is tried after the attack that configs/attack.py makes by default.
UNTRAINED = "untrained"
Step = tuple[str, list[str]]  # what a command does, and its words


def command(config: str, fields: Mapping[str, object], workdir: str = "") -> list[str]:
    """The words of a command that starts a run.

    Args:
      config: its name.
      fields: values of fields by "section.field".
      workdir: of that run; "" leaves it to the run.
    """
    values = [f"--config.{name}={value}" for name, value in fields.items()]
    to = [f"--workdir={workdir}"] if workdir else []
    return [*program(), f"--config={config}", *values, *to]


def lines(settings: Any, folder: epath.Path) -> list[str]:
    """The last lines of a finished run.

    Args:
      settings: the run's.
      folder: its workdir.
    """
    if settings.run == "edit":
        return []
    there = {n: folder / file for n, file in LEFT.items() if (folder / file).exists()}
    found = [f"{name}: {shown_path(path)}" for name, path in there.items()]
    if "model" in there and hasattr(settings, "model"):
        found.append(
            f"To undo the run, use {settings.model!r} as before: it is unchanged."
        )
    for what, words in _steps(settings, shown_path(folder), "edit" in there):
        found += [f"{what}:", f"  {shlex.join(words)}"]
    return found


def _steps(settings: Any, where: str, has_edit: bool) -> list[Step]:
    """What can be done next with a workdir."""
    match settings.run:
        case "surgery" if settings.benchmark:
            return _of_benchmark(settings.benchmark, where)
        case "surgery":
            return _of_roles(settings.data, where)
        case "tofu":
            return _of_benchmark(settings.benchmark.spec, where)
        case "unlearn" | "learn":
            return _of_tasks(settings, where) if has_edit else []
        case "pretrain":
            asked: dict[str, object] = {"data.questions": settings.data.questions}
            if not settings.data.questions:
                asked["data.text"] = settings.data.train
            words = command("evaluate", {"model": where} | asked)
            return [("To evaluate the model again", words)]
        case "attack":
            return [_other_attack(settings)]
        case "export" | "benchmark":
            return [_of_files(f"{where}/jsonl")]
    return []


def _of_benchmark(named: str, where: str) -> list[Step]:
    fields = {"model": where, "benchmark": named}
    return [("To try whether what was removed comes back", command("attack", fields))]


def _of_roles(data: Any, where: str) -> list[Step]:
    """Of a surgery on texts by role."""
    data = data.located
    if data.unlearn and data.questions.partition(":")[0] in BENCHMARKS:
        return _of_benchmark(data.questions, where)
    fields: dict[str, object] = {"model": where}
    if not data.unlearn:
        texts = ",".join(text for text in (data.update, data.retain) if text)
        fields |= {"data.questions": data.questions, "data.text": texts}
        words = command("evaluate", fields | {"data.context": data.context})
        return [("To evaluate the model again", words)]
    records = ",".join(dict.fromkeys(names(streams.bare(data.unlearn))))  # each once
    fields |= {"benchmark": "", "data.relearn": records, "data.context": data.context}
    fields |= {} if data.chat == "auto" else {"data.chat": data.chat}
    if data.retain:
        fields["data.retained"] = ",".join(dict.fromkeys(names(data.retain)))
    return [("To try whether what was removed comes back", command("attack", fields))]


def _of_tasks(settings: Any, where: str) -> list[Step]:
    """Of a removal or an addition, which leaves an edit."""
    fields = {
        "action": "apply",
        "edits": f"{where}/{LEFT['edit']}",
        "model": settings.model,
    }
    what = "To have the same change with a file that rolls it back to the exact bits"
    found = [(what, command("edit", fields, f"{where}-applied"))]
    if settings.run == "unlearn" and settings.tasks.source == "suite":
        targets = SEPARATOR.join(n for stage in settings.tasks.stages for n in stage)
        found += _of_benchmark(f"suite:targets={targets}", where)
    return found


def _other_attack(settings: Any) -> Step:
    """The same command with attacks of the other kind."""
    trains = "relearning" in settings.attack
    other = UNTRAINED if trains else "relearning:learning_rate=3e-4,steps=80"
    given = [a for a in sys.argv[1:] if not re.match("--?(workdir|config.attack)=", a)]
    return "To attack in another way", [*program(), *given, f"--config.attack={other}"]


def _of_files(folder: str) -> Step:
    """A surgery on the files of an export."""
    fields = {
        "data.unlearn": f"{folder}/obsolete.jsonl,{folder}/problematic.jsonl",
        "data.update": f"{folder}/update.jsonl",
        "data.retain": f"{folder}/retain.jsonl,{folder}/general.jsonl",
        "data.questions": f"{folder}/questions.jsonl",
    }
    return "To use the files as your own", command("surgery", fields)
