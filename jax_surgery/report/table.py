# SPDX-License-Identifier: Apache-2.0
"""Rows of the before/after table, and the table as text."""

import dataclasses
import math
from typing import Any

GOALS = {
    "obsolete": "chance",
    "problematic": "chance",
    "update": "up",
    "retain": "keep",
    "general": "keep",
}
# Of tasks, in the order of the rows: what stands beside the name.
ROLES = {
    "target": "target",
    "similar": "similar",
    "other": "",
    "unknown": "not known before",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured quantity before and after.

    Attributes:
      name: e.g. "obsolete" or "obsolete, unseen wordings".
      goal: "chance", "up", "keep", or "" where there is none.
      before, after: texts such as "99.7 %".
      before_interval, after_interval: "98.9 to 99.9", or "".
      count: how many were asked.
      main: whether the row stands for a group (not for a part of one).
      change: how much is removed or lost, or "" where that is not asked.
    """

    name: str
    goal: str
    before: str
    before_interval: str
    after: str
    after_interval: str
    count: int
    main: bool = True
    change: str = ""

    @property
    def label(self) -> str:
        """The name as it stands under its group's."""
        return self.name if self.main else self.name.split(", ")[-1]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(entry: dict[str, Any], key: str = "interval") -> str:
    if key not in entry:
        return ""
    low, high = entry[key]
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _row(name: str, goal: str, old: dict, new: dict, *, main=True) -> Row:
    return Row(
        name,
        goal,
        _percent(old["accuracy"]),
        _interval(old),
        _percent(new["accuracy"]),
        _interval(new),
        new["n"],
        main,
    )


def accuracy_rows(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    """Rows of the multiple-choice accuracies, each group with its wordings."""
    rows = []
    for group, new in after.items():
        old, goal = before[group], GOALS.get(group, "")
        rows.append(_row(group, goal, old, new))
        for wording in ("trained", "unseen"):
            if wording in new:
                name = f"{group}, {wording} wordings"
                rows.append(_row(name, "", old[wording], new[wording], main=False))
    return rows


def chances_of(entries: dict[str, Any]) -> dict[str, float]:
    """The accuracy of guessing by group, of groups that were asked questions."""
    return {g: entry["chance"] for g, entry in entries.items() if "chance" in entry}


def chance_text(chances: dict[str, float]) -> str:
    """What guessing gives, as a sentence; "" where no questions were asked."""
    texts = {group: f"{100 * chance:.3g} %" for group, chance in chances.items()}
    levels = set(texts.values())
    if not levels:
        return ""
    if len(levels) == 1:
        return f"Multiple choice: chance is {levels.pop()}."
    each = ", ".join(f"{text} for {group}" for group, text in texts.items())
    return f"Multiple choice: chance (the mean of 1 / options) is {each}."


def role_rows(roles: dict[str, Any]) -> list[Row]:
    """Rows of how well each role's text is known (nats per token)."""
    goals = {"unlearn": "up", "update": "down", "retain": "keep"}
    return [
        Row(
            f"{role} text, nats per token",
            goals.get(role, ""),
            f"{entry['before']['nll_per_token']:.3f}",
            f"{_percent(entry['before']['memorised'])} of tokens recalled",
            f"{entry['after']['nll_per_token']:.3f}",
            f"{_percent(entry['after']['memorised'])} of tokens recalled",
            entry["after"]["tokens"],
        )
        for role, entry in roles.items()
    ]


def recall_rows(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    """Rows of answer probability and ROUGE-L, each group's."""
    goals = {"forget": "down"}
    names = {"probability": "answer probability", "rouge_l": "ROUGE-L recall"}
    rows = []
    for group, new in after.items():
        for key, label in names.items():
            old, goal = before[group], goals.get(group, "keep")
            ends = (*_recall(old, key), *_recall(new, key))
            rows.append(Row(f"{group}: {label}", goal, *ends, new["n"]))
    return rows


def _recall(entry: dict[str, Any], key: str) -> tuple[str, str]:
    low, high = entry[f"{key}_interval"]
    return f"{entry[key]:.3f}", f"{low:.3f} to {high:.3f}"


def task_rows(tasks: dict[str, dict[str, Any]]) -> list[Row]:
    """Rows of tasks: targets, then those similar to them, others, and unknown ones.

    Args:
      tasks: by name, each with "role" (of `ROLES`), "goal", "before" and "after" (each
        with "value" from 0 to 1, "interval" and "n"), and "removed" and "drop", shares
        or None.

    Raises:
      ValueError: a role that is none of `ROLES`.
    """
    for name, task in tasks.items():
        if task["role"] not in ROLES:
            raise ValueError(
                f"task {name!r} has the role {task['role']!r}; use one of "
                f"{', '.join(ROLES)}."
            )
    order = list(ROLES)
    ranked = sorted(tasks.items(), key=lambda item: order.index(item[1]["role"]))
    rows = []
    for name, task in ranked:
        old, new = task["before"], task["after"]
        ends = (
            *(_percent(old["value"]), _interval(old)),
            *(_percent(new["value"]), _interval(new)),
        )
        mark = ROLES[task["role"]]
        label = f"{name} ({mark})" if mark else name
        rows.append(Row(label, task["goal"], *ends, new["n"], change=_change(task)))
    return rows


def _change(task: dict[str, Any]) -> str:
    """What is removed of a target, lost or gained of a retained task; "" where nothing was
    known."""
    removed, lost = (
        None if value is None or math.isnan(value) else value
        for value in (task["removed"], task["drop"])
    )
    if task["role"] == "target" and removed is not None:
        return f"{_percent(round(removed, 3) + 0.0)} removed"  # never -0.0 %
    if task["role"] in ("similar", "other") and lost is not None:
        return f"{_percent(abs(lost))} {'lost' if lost > -0.0005 else 'gained'}"
    return ""


def as_text(rows: list[Row]) -> str:
    """The rows as an aligned table; how much changed where any row says so."""
    changes = any(row.change for row in rows)
    head = ("removed / lost",) if changes else ()
    cells = [("", "before", "95 % interval", "after", "95 % interval", *head, "n")]
    cells += [
        (
            row.label if row.main else f"  {row.label}",
            row.before,
            row.before_interval,
            row.after,
            row.after_interval,
            *((row.change,) if changes else ()),
            f"{row.count:,}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for number, line in enumerate(cells):
        first = line[0].ljust(widths[0])
        rest = "  ".join(
            text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True)
        )
        lines.append(f"{first}  {rest}".rstrip())
        if number == 0:
            lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)


def cost_text(cost: dict[str, Any]) -> str:
    """The cost as one sentence; compared where the naive alternative is known."""
    if "ratio" not in cost:
        return f"cost: {cost['surgery_flops']:.3g} FLOPs"
    return (
        f"cost: {cost['surgery_flops']:.3g} FLOPs, the naive alternative "
        f"{cost['baseline_flops']:.3g} ({cost['baseline_epochs']:g} passes over "
        f"update and retain): {cost['ratio']:.3g} times as much"
    )
