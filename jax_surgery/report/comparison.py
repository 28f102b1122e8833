# SPDX-License-Identifier: Apache-2.0
"""Several runs on one page: a picture of forgotten against retained, a table, and where
their configs differ."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from etils import epath
from flax.traverse_util import flatten_dict

from jax_surgery.command_line import wrapped
from jax_surgery.parallel import distributed
from jax_surgery.report import page, pairs, pictures, standing, summary, table
from jax_surgery.report.one_by_one import Answers
from jax_surgery.report.standing import Evidence
from jax_surgery.report.summary import Answer
from jax_surgery.storage import files

GOALS = {"unlearn": "Forgotten", "update": "Learned"}
CAPTION = (
    "Filled marks and the dashed line: runs that no other one beats in both ways. Bars are "
    "95 % intervals, where not all there is was asked. Beyond 100 % of what is to be "
    "forgotten a model does worse than guessing."
)
LEGENDS = {
    "unlearn": "* no other run beats it in both ways. Forgotten: of what the model knew "
    "beyond chance, the share that is gone. Retained: of what it knew of other things, "
    "the share that is still there.",
    "update": "* no other run beats it in both ways. Learned: of what the model did not "
    "know, the share that it knows now. Retained: of what it knew beyond chance, the share "
    "that is still there.",
}
MARKS = "osD^vP"
PALETTE = ("#c44e52", "#4c72b0", "#55a868", "#dd8452", "#8172b3", "#937860", "#3f8fc4")
ROOM = 0.08  # of the axes, around what is drawn


class Compared(NamedTuple):
    """A finished run.

    Attributes:
      name: short, and no other run's.
      workdir: of the run.
      results: what its results.json holds.
      evidence: see `standing.evidence`.
      answers: see `one_by_one.read`.
    """

    name: str
    workdir: str
    results: Mapping[str, Any]
    evidence: Sequence[Evidence]
    answers: Answers = MappingProxyType({})

    def done(self, role: str) -> float | None:
        """How much of what is asked of a role is done, 1 is all; None: not measured."""
        found = standing.pooled(self.evidence, role)
        return found.done if found else None

    def interval(self, role: str) -> tuple[float, float] | None:
        """The 95 % interval of `done`; None where all there is was asked."""
        found = standing.pooled(self.evidence, role)
        return found.interval if found and found.after.low < found.after.high else None


class Point(NamedTuple):
    """A run in the picture, in shares: what is done of the goal, and what is retained."""

    name: str
    goal: float
    goal_interval: tuple[float, float] | None
    retained: float
    retained_interval: tuple[float, float] | None


def points_of(runs: Sequence[Compared], role: str) -> list[Point]:
    """The runs as points of the picture; both shares are measured."""
    found = []
    for run in runs:
        goal, retained = run.done(role), run.done("retain")
        assert goal is not None and retained is not None, "the run checks it"
        ends = (run.interval(role), run.interval("retain"))
        found.append(Point(run.name, goal, ends[0], retained, ends[1]))
    return found


def best(points: Sequence[Point]) -> list[bool]:
    """Which points no other one beats (the Pareto front): none is as good in both ways and
    better in one. Beyond 100 % of what is to be forgotten a model knows what to avoid: that
    counts as far from it as the same below.
    """
    values = [(1 - abs(1 - p.goal), p.retained) for p in points]

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    return [not any(beats(other, own) for other in values) for own in values]


def picture(points: Sequence[Point], goal: str) -> str:
    """The runs with their intervals and the line of the best ones, percent, as SVG.

    Args:
      goal: of the horizontal axis, such as "Forgotten".
    """
    figure, axes = pictures.panel(pictures.WIDTH, 4.2)
    axes.grid(axis="both", color=pictures.GREY, alpha=0.25, linewidth=0.6)
    front = [p for p, is_best in zip(points, best(points), strict=True) if is_best]
    front.sort(key=lambda point: (point.goal, -point.retained))
    axes.plot(
        *([100 * value for value in way] for way in _ways(front)),
        color=pictures.GREY, linewidth=1.2, linestyle="--", zorder=1,
    )  # fmt: skip
    for number, point in enumerate(points):
        colour = PALETTE[number % len(PALETTE)]
        mark = MARKS[number // len(PALETTE) % len(MARKS)]
        axes.errorbar(
            100 * point.goal, 100 * point.retained,
            xerr=_bars(point.goal, point.goal_interval),
            yerr=_bars(point.retained, point.retained_interval),
            fmt=mark, color=colour, markersize=8, elinewidth=1.2, capsize=3,
            markerfacecolor=colour if point in front else "none", label=point.name,
        )  # fmt: skip
    axes.margins(ROOM)
    for limits, line in (
        (axes.get_xlim(), axes.axvline),
        (axes.get_ylim(), axes.axhline),
    ):
        if limits[0] < 100 < limits[1]:
            line(100, color=pictures.GREY, linestyle=":", linewidth=1.2, zorder=0)
    axes.set_xlabel(f"{goal.lower()}, %", color=pictures.GREY)
    axes.set_ylabel("retained, %", color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, f"{goal.lower()} against retained, of each run")


def _ways(front: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.goal for p in front], [p.retained for p in front]


def _bars(value: float, interval: tuple[float, float] | None) -> Any:
    """Lengths of error bars, percent, [2, 1]; None where there are none."""
    if interval is None:
        return None
    low, high = interval
    return [[100 * max(0.0, value - low)], [100 * max(0.0, high - value)]]


def _shown(value: float, interval: tuple[float, float] | None) -> dict[str, str]:
    """A share and its interval as a table has them."""
    ends = [f"{100 * end:.1f}" for end in interval or ()]
    return {"value": table.percent(value), "interval": " to ".join(ends)}


def headline(points: Sequence[Point], goal: str) -> str:
    """Which runs are best, in a sentence."""
    front = [p for p, is_best in zip(points, best(points), strict=True) if is_best]
    verb = "forgets" if goal == GOALS["unlearn"] else "learns"
    each = ", ".join(
        f"{p.name} ({verb} {100 * p.goal:.1f} %, retains {100 * p.retained:.1f} %)"
        for p in front
    )
    if len(front) == 1:
        return f"Of {len(points)} runs one is the best in both ways: {each}."
    if len(front) == len(points):
        return f"None of {len(points)} runs beats another in both ways: {each}."
    return (
        f"Of {len(points)} runs no other beats these {len(front)} in both ways: {each}."
    )


def differences(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Fields of the configs that are not the same in all runs, and their values."""
    flat: list[Any] = [
        flatten_dict({"config": dict(run.results.get("settings", {}))}, sep=".")
        for run in runs
    ]
    fields = dict.fromkeys(name for own in flat for name in own)
    shown = lambda own, name: json.dumps(own[name]) if name in own else "(none)"
    rows = [(name, [shown(own, name) for own in flat]) for name in fields]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def write(
    directory: str, runs: Sequence[Compared], role: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Writes results.json and report/index.html on the lead process, and prints what is
    best, and how the runs differ in pairs; returns what results.json holds.

    Args:
      role: that the picture draws over what is retained.
    """
    points, answers = points_of(runs, role), [summary.of(run.results) for run in runs]
    is_best = best(points)
    methods = pairs.methods_of(runs)
    goals = {role: GOALS[role].lower(), "retain": "retained"}
    found = pairs.tests(methods, list(goals))
    results = {
        "runs": {
            run.name: {
                "workdir": run.workdir,
                GOALS[role].lower(): point.goal,
                f"{GOALS[role].lower()}_interval": point.goal_interval,
                "retained": point.retained,
                "retained_interval": point.retained_interval,
                "best": front,
                "answers": {one.question: one.answer for one in own},
            }
            for run, point, front, own in zip(
                runs, points, is_best, answers, strict=True
            )
        },
        "methods": {one.name: one.told(goals) for one in methods},
        "tests": found,
        "settings": settings,
        "versions": page.versions(),
    }
    if distributed.is_lead():
        folder = epath.Path(directory)
        text = json.dumps(results, indent=2) + "\n"
        files.write_text(folder / "results.json", text)
        html = _page(runs, points, is_best, answers, role, settings, results)
        files.write_text(folder / "report" / "index.html", html)
        print(headline(points, GOALS[role]))
        for run, own in zip(runs, answers, strict=True):
            print(f"{run.name}: {'; '.join(f'{a.question} {a.answer}' for a in own)}")
        for test in found:
            print(wrapped(pairs.line(test)))
    return results


def _method_rows(methods: Mapping[str, Any], goal: str) -> list[dict[str, Any]]:
    """Methods with several seeds, as the page has them; [] where none has."""
    return [
        {
            "name": name,
            "runs": ", ".join(one["runs"]),
            "goal": _shown(one[goal.lower()], one[f"{goal.lower()}_interval"]),
            "retained": _shown(one["retained"], one["retained_interval"]),
            "n": one["n"],
        }
        for name, one in methods.items()
        if one["n"] > 1
    ]


def _page(
    runs: Sequence[Compared],
    points: Sequence[Point],
    is_best: Sequence[bool],
    answers: Sequence[list[Answer]],
    role: str,
    settings: dict[str, Any],
    results: Mapping[str, Any],
) -> str:
    goal = GOALS[role]
    models = {run.results.get("settings", {}).get("model") for run in runs}
    warnings = []
    if len(models) > 1:
        warnings.append(
            f"The runs began with different models ({', '.join(map(str, models))}), which "
            "may differ in more than the runs."
        )
    rows = []
    for run, point, front, own in zip(runs, points, is_best, answers, strict=True):
        row = {"name": run.name, "workdir": run.workdir, "best": front}
        row |= {"goal": _shown(point.goal, point.goal_interval)}
        row |= {"retained": _shown(point.retained, point.retained_interval)}
        row |= {"answers": [one.answer for one in own], "lines": own}
        flops = run.results.get("cost", {}).get("surgery_flops")
        rows.append(row | {"flops": f"{flops:.3g}" if flops else ""})
    return page.filled(
        "comparison.html",
        {
            "title": f"Comparison of {len(runs)} runs",
            "subtitle": ", ".join(run.name for run in runs),
            "headlines": [headline(points, goal)],
            "warnings": warnings,
            "goal": goal,
            "svg": picture(points, goal),
            "caption": CAPTION,
            "runs": rows,
            "heads": [one.question.lower() + "?" for one in answers[0]],
            "legend": LEGENDS[role],
            "methods": _method_rows(results["methods"], goal),
            "tests": [pairs.line(test) for test in results["tests"]],
            "differences": differences(runs),
            "settings": settings,
        },
    )
