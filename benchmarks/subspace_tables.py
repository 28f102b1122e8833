# SPDX-License-Identifier: Apache-2.0
"""The tables of `subspace_table.py`, from its finished cases."""

import collections
from typing import Any

import numpy as np

STEPS = (0, 5, 10, 20, 80)


def _percent(values: Any) -> str:
    return f"{100 * float(np.mean(values)):.1f}"


def _worst(lists: Any) -> str:
    worst = [max(values) for values in lists if values]
    return f"{100 * max(worst):.1f}" if worst else ""


def _mean(lists: Any) -> str:
    means = [np.mean(values) for values in lists if values]
    return f"{100 * float(np.mean(means)):.2f}" if means else ""


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _line(name: str, found: list[dict]) -> list[str]:
    gone = [value for case in found for value in case["removed"]]
    return [
        name,
        str(len(found)),
        f"{_percent(gone)} ({100 * min(gone):.1f} to {100 * max(gone):.1f})",
        f"{_mean(c['similar'] for c in found)} ({_worst(c['similar'] for c in found)})",
        f"{_mean(c['other'] for c in found)} ({_worst(c['other'] for c in found)})",
        f"{np.median([c['seconds'] for c in found]):.0f}",
    ]


HEADER = [
    "", "cases", "removed, % (least to most)", "similar tasks lose, % (worst task)",
    "other tasks lose, % (worst task)", "seconds (median)",
]  # fmt: skip


def unlearn(cases: dict[str, dict], reserved: list[str]) -> str:
    """One row a task, over seeds, and the means of both kinds of tasks."""
    by_task = collections.defaultdict(list)
    for name, case in cases.items():
        by_task[name.split("/")[1]].append(case)
    rows = [_line(task, found) for task, found in by_task.items()]
    for label, wanted in (("development", False), ("reserved", True)):
        chosen = [
            case
            for task, found in by_task.items()
            if (task in reserved) == wanted
            for case in found
        ]
        if chosen:
            rows.append(_line(f"**all {label} tasks**", chosen))
    return _rows(HEADER, rows)


def together(cases: dict[str, dict]) -> str:
    """One row for each set of tasks."""
    by_set = collections.defaultdict(list)
    for name, case in cases.items():
        by_set[name.split("/")[1]].append(case)
    return _rows(HEADER, [_line(name, found) for name, found in by_set.items()])


def learn(cases: dict[str, dict]) -> str:
    """Accuracy on the new task and what others lose, one row for each way."""
    by_way = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, case in cases.items():
        _, task, way = name.split("/")
        by_way[way][task].append(case)
    tasks = list(dict.fromkeys(name.split("/")[1] for name in cases))
    header = [
        "",
        *(f"{t}: accuracy; similar / other lose, %" for t in tasks),
        "seconds",
    ]
    rows = []
    for way, found in by_way.items():
        cells = []
        for task in tasks:
            if not (own := found.get(task)):
                cells.append("")
                continue
            lost = " / ".join(_mean(c[k] for c in own) for k in ("similar", "other"))
            cells.append(f"{_percent([c['accuracy'] for c in own])}; {lost}")
        seconds = [case["seconds"] for own in found.values() for case in own]
        rows.append([way, *cells, f"{np.median(seconds):.0f}"])
    return _rows(header, rows)


def relearn(cases: dict[str, dict]) -> str:
    """Accuracy on the other half after steps, one row for each task and mode."""
    by_task = collections.defaultdict(dict)
    for name, case in cases.items():
        mode, task = name.split("/")
        by_task[task][mode] = case
    header = ["task", "", *(f"{n} steps" for n in STEPS), "removed, %", "worst loss, %"]
    rows = []
    for task, modes in by_task.items():
        for mode, case in modes.items():
            back = [f"{100 * value:.0f}" for value in case["back"]]
            gone = _percent(case["removed"]) if "removed" in case else ""
            lost = [case[k] for k in ("similar", "other")] if gone else []
            rows.append([task, mode, *back, gone, _worst(lost)])
    return _rows(header, rows)


def readings(cases: dict[str, dict]) -> str:
    """Removed; similar tasks' and others' worst loss, one row for each reading."""
    by_reading = collections.defaultdict(dict)
    for name, case in cases.items():
        reading, task = name.rsplit("/", 1)
        by_reading[reading][task] = case
    tasks = list(dict.fromkeys(name.rsplit("/", 1)[1] for name in cases))
    rows = []
    for reading, found in by_reading.items():
        cells = []
        for task in tasks:
            case = found.get(task, {"error": "not run"})
            if "error" in case:
                cells.append(case["error"][:60])
                continue
            parts = (_percent(case["removed"]), _worst([case["similar"]]))
            cells.append(" / ".join((*parts, _worst([case["other"]]))))
        rows.append([reading, *cells])
    return _rows(["removed / worst similar / worst other, %", *tasks], rows)


def page(cases: Any, reserved: list[str]) -> str:
    """The whole page, of the parts that have cases."""
    parts = ["# Subspace surgery on the embedded suite\n"]
    parts.append(
        "Written by `python benchmarks/subspace_table.py --workdir=DIR` on 2 CPU cores. "
        "Removed is 1 - (after - chance) / (before - chance); a loss is 1 - after / "
        "before. A task's own items are 40 to 2000 answers' tokens, so one item of the "
        "smallest is 2.5 %.\n"
    )
    if found := cases.named("unlearn"):
        seeds = len({name.split("/")[0] for name in found})
        parts.append(f"## Each task removed, {seeds} pretraining seeds\n")
        parts.append(unlearn(found, reserved))
        parts.append(
            f"Reserved tasks ({', '.join(reserved)}) were looked at for no choice.\n"
        )
    if found := cases.named("together"):
        parts += ["## Several tasks at once\n", together(found)]
    if found := cases.named("learn"):
        parts += ["## New tasks added, rank 8\n", learn(found)]
    if found := cases.named("relearn"):
        parts.append("## Relearning: accuracy on the half that is not trained again\n")
        parts.append(
            "After steps of Adam (3e-4) on the other half; a model that never knew the "
            "task is what rules alone give.\n"
        )
        parts.append(relearn(found))
    if found := cases.named("readings"):
        parts += ["## Readings of the method\n", readings(found)]
    return "\n".join(parts)
