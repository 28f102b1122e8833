# SPDX-License-Identifier: Apache-2.0
"""Rows of the before/after table, and the table as text."""

import dataclasses
from typing import Any

CHANCE = 0.25
GOALS = {
    "obsolete": "chance",
    "problematic": "chance",
    "update": "up",
    "retain": "keep",
    "general": "keep",
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
    """

    name: str
    goal: str
    before: str
    before_interval: str
    after: str
    after_interval: str
    count: int
    main: bool = True

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


def role_rows(roles: dict[str, Any]) -> list[Row]:
    """Rows of how well each role's text is known (nats a token)."""
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
            ends = []
            for entry in (before[group], new):
                low, high = entry[f"{key}_interval"]
                ends += [f"{entry[key]:.3f}", f"{low:.3f} to {high:.3f}"]
            goal = goals.get(group, "keep")
            rows.append(Row(f"{group}: {label}", goal, *ends, new["n"]))
    return rows


def as_text(rows: list[Row]) -> str:
    """The rows as an aligned table."""
    cells = [("", "before", "95 % interval", "after", "95 % interval", "n")]
    cells += [
        (
            row.label if row.main else f"  {row.label}",
            row.before,
            row.before_interval,
            row.after,
            row.after_interval,
            f"{row.count:,}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(6)]
    lines = []
    for number, line in enumerate(cells):
        first = line[0].ljust(widths[0])
        rest = "  ".join(
            text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True)
        )
        lines.append(f"{first}  {rest}".rstrip())
        if number == 0:
            lines.append("-" * (sum(widths) + 10))
    return "\n".join(lines)


def cost_text(cost: dict[str, Any]) -> str:
    """The cost as one sentence."""
    return (
        f"cost: {cost['surgery_flops']:.3g} FLOPs, the naive alternative "
        f"{cost['baseline_flops']:.3g} ({cost['baseline_epochs']:g} passes over "
        f"update and retain): {cost['ratio']:.3g} times as much"
    )
