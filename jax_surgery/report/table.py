# SPDX-License-Identifier: Apache-2.0
"""Rows of the before/after table, and the table as text."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jax_surgery import metrics

GOALS = {
    "obsolete": "chance",
    "problematic": "chance",
    "update": "up",
    "retain": "keep",
    "general": "keep",
}
LABELS = {"rouge_l": "ROUGE-L recall"}  # of metrics; of others their name
Groups = dict[str, dict[str, Any]]
Show = Callable[[dict[str, Any]], tuple[str, str]]
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
      before_recalled, after_recalled: share of tokens that are recalled, "73.8 %", or "".
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
    before_recalled: str = ""
    after_recalled: str = ""

    @property
    def label(self) -> str:
        """The name as it stands under its group's."""
        return self.name if self.main else self.name.split(", ")[-1]


def percent(share: float) -> str:
    """A share as a table has it."""
    return f"{100 * share:.1f} %"


def _percents(key: str) -> Show:
    """Shows a share and its interval, where it has one."""

    def show(entry: dict[str, Any]) -> tuple[str, str]:
        ends = (f"{100 * end:.1f}" for end in entry.get("interval", ()))
        return percent(entry[key]), " to ".join(ends)

    return show


def _number(entry: dict[str, Any]) -> tuple[str, str]:
    low, high = entry["interval"]
    return f"{entry['value']:.3f}", f"{low:.3f} to {high:.3f}"


def _row(name: str, goal: str, old: dict, new: dict, show: Show, **more: Any) -> Row:
    """A row of what was measured before and after.

    Args:
      show: the texts of an entry and of its interval.
      more: further fields of the row.
    """
    return Row(name, goal, *show(old), *show(new), new["n"], **more)


def share_row(name: str, goal: str, old: dict, new: dict, **more: Any) -> Row:
    """A row of a share before and after: {"share", "interval", "n"} each."""
    return _row(name, goal, old, new, _percents("share"), **more)


def number_row(name: str, goal: str, old: dict, new: dict, **more: Any) -> Row:
    """A row of a number before and after: {"value", "interval", "n"} each."""
    return _row(name, goal, old, new, _number, **more)


def accuracy_rows(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    """Rows of the multiple-choice accuracies, each group with its wordings."""
    rows, show = [], _percents("accuracy")
    for group, new in after.items():
        old, goal = before[group], GOALS.get(group, "")
        rows.append(_row(group, goal, old, new, show))
        for wording in ("trained", "unseen"):
            if wording in new:
                label, ends = (
                    f"{group}, {wording} wordings",
                    (old[wording], new[wording]),
                )
                rows.append(_row(label, "", *ends, show, main=False))
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
    """Rows of how well each role's text is known (nats per token), over its texts."""
    goals = {"unlearn": "up", "update": "down", "retain": "keep"}
    return [
        Row(
            f"{role} text, nats per token",
            goals.get(role, ""),
            *_nats(entry["before"]),
            *_nats(entry["after"]),
            entry["after"]["n"],
            before_recalled=percent(entry["before"]["memorised"]),
            after_recalled=percent(entry["after"]["memorised"]),
        )
        for role, entry in roles.items()
    ]


def _nats(entry: dict[str, Any]) -> tuple[str, str]:
    return _number({"value": entry["nll_per_token"], "interval": entry["interval"]})


def text_row(name: str, text: dict[str, Any]) -> Row:
    """A row of how well a text file is known, of one model.

    Args:
      text: see `metrics.text.file_nll`.
    """
    return Row(f"{name}, nats per token", "", "", "", *_nats(text), text["n"])


def metric_rows(
    before: Groups, after: Groups, roles: Mapping[str, str] | None = None
) -> list[Row]:
    """Rows of metrics, of each group.

    Args:
      before, after: {group: {metric: {"value", "interval", "n"}}}.
      roles: of the groups; others are to stay. None: there are no goals.
    """
    rows = []
    for group, found in after.items():
        for name, new in found.items():
            goal = "" if roles is None else _goal(name, roles.get(group) or "retain")
            label = f"{group}: {LABELS.get(name, name.replace('_', ' '))}"
            if how := new.get("protocol"):
                label += f" ({how})"
            rows.append(_row(label, goal, before[group][name], new, _number))
    return rows


def _goal(metric: str, role: str) -> str:
    """Where a metric of a group is to go."""
    if role == "retain":
        return "keep"
    knows = metrics.find(metric).direction == "knows"
    return "up" if knows == (role == "update") else "down"


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
    rows, show = [], _percents("value")
    for name, task in ranked:
        mark, ends = ROLES[task["role"]], (task["before"], task["after"])
        label = f"{name} ({mark})" if mark else name
        rows.append(_row(label, task["goal"], *ends, show, change=_change(task)))
    return rows


def _change(task: dict[str, Any]) -> str:
    """What is removed of a target, lost or gained of a retained task; "" where nothing was
    known."""
    removed, lost = (
        None if value is None or math.isnan(value) else value
        for value in (task["removed"], task["drop"])
    )
    if task["role"] == "target" and removed is not None:
        return f"{percent(round(removed, 3) + 0.0)} removed"  # never -0.0 %
    if task["role"] in ("similar", "other") and lost is not None:
        return f"{percent(abs(lost))} {'lost' if lost > -0.0005 else 'gained'}"
    return ""


# Columns that a narrow screen goes without, the first one first.
SPARED = (" tokens recalled", "tokens recalled", "95 % interval", "n", " 95 % interval")


def as_text(rows: list[Row], width: float = math.inf, now: str = "after") -> str:
    """The rows as an aligned table; a column that no row fills is left out.

    Args:
      now: the head of the column "after".
      width: characters of a line, at most; `SPARED` columns are left out where there is
        no room for them, which the last line says.
    """
    columns = {
        "": [row.label if row.main else f"  {row.label}" for row in rows],
        "before": [row.before for row in rows],
        "95 % interval": [row.before_interval for row in rows],
        "tokens recalled": [row.before_recalled for row in rows],
        now: [row.after for row in rows],
        " 95 % interval": [row.after_interval for row in rows],
        " tokens recalled": [row.after_recalled for row in rows],
        "removed / lost": [row.change for row in rows],
        "n": [f"{row.count:,}" for row in rows],
    }
    filled = {h: (h.strip(), *texts) for h, texts in columns.items() if any(texts)}
    widest = lambda: [max(map(len, column)) for column in filled.values()]
    spared = [head for head in SPARED if head in filled]
    all_of = len(filled)
    while spared and sum(widest()) + 2 * len(filled) - 2 > width:
        del filled[spared.pop(0)]
    cells, widths = list(zip(*filled.values(), strict=True)), widest()
    form = "  ".join(f"{{:{'>' if i else ''}{w}}}" for i, w in enumerate(widths))
    lines = [form.format(*line).rstrip() for line in cells]
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    if len(filled) < all_of:
        lines.append("(the report has further columns)")
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
