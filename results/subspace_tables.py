# SPDX-License-Identifier: Apache-2.0
"""The tables of `subspace_table.py` and `relearn_table.py`, from finished cases."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from tables import markdown


def _percent(values: Any) -> str:
    return f"{100 * float(np.mean(values)):.1f}"


def _worst(lists: Any) -> str:
    worst = [max(values) for values in lists if values]
    return f"{100 * max(worst):.1f}" if worst else ""


def _mean(lists: Any) -> str:
    means = [np.mean(values) for values in lists if values]
    return f"{100 * float(np.mean(means)):.2f}" if means else ""


def _line(name: str, found: list[dict]) -> list[str]:
    gone = [value for case in found for value in case["removed"]]
    seconds = [case["seconds"] for case in found]
    return [
        name,
        str(len(found)),
        f"{_percent(gone)} ({100 * min(gone):.1f} to {100 * max(gone):.1f})",
        f"{_mean(c['similar'] for c in found)} ({_worst(c['similar'] for c in found)})",
        f"{_mean(c['other'] for c in found)} ({_worst(c['other'] for c in found)})",
        f"{np.median(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
    ]


HEADER = [
    "", "cases", "removed, % (least to most)", "similar tasks lose, % (worst task)",
    "other tasks lose, % (worst task)", "seconds, median (least to most)",
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
    return markdown(HEADER, rows)


def together(cases: dict[str, dict]) -> str:
    """One row for each set of tasks."""
    by_set = collections.defaultdict(list)
    for name, case in cases.items():
        by_set[name.split("/")[1]].append(case)
    lines = [_line(name, found)[:-1] for name, found in by_set.items()]
    return markdown(HEADER[:-1], lines)


def learn(cases: dict[str, dict]) -> str:
    """Accuracy on the new task and what others lose on average, one row for each way."""
    by_way = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, case in cases.items():
        _, task, way = name.split("/")
        by_way[way][task].append(case)
    tasks = list(dict.fromkeys(name.split("/")[1] for name in cases))
    header = ["", *(f"{t}: accuracy (least); similar / other lose, %" for t in tasks)]
    rows = []
    for way, found in by_way.items():
        cells = []
        for task in tasks:
            if not (own := found.get(task)):
                cells.append("")
                continue
            lost = " / ".join(_mean(c[k] for c in own) for k in ("similar", "other"))
            right = [c["accuracy"] for c in own]
            cells.append(f"{_percent(right)} ({100 * np.min(right):.1f}); {lost}")
        rows.append([way, *cells])
    return markdown(header, rows)


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
            if not (case := found.get(task)):
                cells.append("")
                continue
            parts = (_percent(case["removed"]), _worst([case["similar"]]))
            cell = " / ".join((*parts, _worst([case["other"]])))
            cells.append(f"{cell} *" if case.get("short") else cell)
        rows.append([reading, *cells])
    return markdown(["removed / worst similar / worst other, %", *tasks], rows)


def page(cases: Any, reserved: list[str]) -> str:
    """The whole page, of the parts that have cases."""
    parts = ["# Subspace surgery on the embedded suite\n"]
    parts.append(
        "Written by `python results/subspace_table.py --workdir=DIR` on 2 CPU cores. "
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
    if found := cases.named("readings"):
        parts += ["## Readings of the method, seed 0\n", readings(found)]
        parts.append("\\* at alpha 1: no alpha up to 4 removes as much as was asked.\n")
    return "\n".join(parts)


def relearn_page(
    cases: dict[str, dict],
    tried: Sequence[str],
    reserved: Sequence[str],
    steps: Sequence[int],
) -> str:
    """What comes back, of each mode and task and of the mean of those with all modes."""
    by_task: dict[str, dict[str, dict]] = collections.defaultdict(dict)
    for name, case in cases.items():
        task, mode = name.split("/")
        by_task[task][mode] = case
    modes = list(dict.fromkeys(name.split("/")[1] for name in cases))
    rates = list(next(iter(cases.values()))["back"])
    after = ", ".join(map(str, steps))
    parts = [
        "# Relearning: what half of a removed task's items bring back of the rest\n",
        (
            "Written by `python results/relearn_table.py --workdir=DIR` on 2 CPU cores, "
            "the suite's model of seed 0, one run each. Adam trains every parameter on half "
            f"of the items; shown is the accuracy on the other half (%) after 0, {after} "
            "steps. What a mode leaves behind is what lies above the model that never knew "
            "the task.\n"
        ),
        f"## Every mode: mean of {' and '.join(tried)}, above the model that never knew\n",
    ]
    tasks = [task for task in tried if "never knew" in by_task[task]]
    rows = []
    for mode in modes:
        own = [by_task[t] for t in tasks if mode in by_task[t]]
        if mode == "never knew" or len(own) < len(tasks):
            continue
        cells = []
        for rate in rates:
            above = [
                np.array(one[mode]["back"][rate]) - one["never knew"]["back"][rate]
                for one in own
            ]
            cells.append(_back(np.mean(above, 0)))
        found = [one[mode] for one in own]
        rows.append([mode, *cells, *_costs(found)])
    of_rates = [f"Adam {rate}: 0, {after} steps" for rate in rates]
    header = ["", *of_rates, "removed, % (least)", "similar tasks lose, % (worst)",
              "other tasks lose, % (worst)"]  # fmt: skip
    parts.append(markdown(header, rows))
    for task, own in by_task.items():
        kind = " (reserved: looked at for no choice)" if task in reserved else ""
        parts.append(f"## {task}{kind}\n")
        rows = []
        for mode in (m for m in modes if m in own):
            cells = [_back(own[mode]["back"][rate]) for rate in rates]
            costs = _costs([own[mode]]) if "removed" in own[mode] else [""] * 3
            rows.append([mode, *cells, *costs])
        parts.append(markdown(header, rows))
    return "\n".join(parts)


def _back(values: Any) -> str:
    return " ".join(f"{100 * value:.0f}" for value in values)


def _costs(found: list[dict]) -> list[str]:
    gone = [value for case in found for value in case["removed"]]
    lost = [
        f"{_mean(c[kind] for c in found)} ({_worst(c[kind] for c in found)})"
        for kind in ("similar", "other")
    ]
    return [f"{_percent(gone)} ({100 * min(gone):.1f})", *lost]
