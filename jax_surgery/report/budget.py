# SPDX-License-Identifier: Apache-2.0
"""How a run kept to its budget: the trade-off curve, and what the run chose by itself.

Both are read from what results.json holds as "automatic" (`methods.automatic.run`), of
which older and newer runs have fewer and more fields.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_surgery.methods.automatic.controller import point_at
from jax_surgery.report import page, pictures

# What goes down at a point: key, name, unit, colour.
GOALS = (
    ("forget", "to forget", "nats from the ends", pictures.COLOURS["unlearn_ce"]),
    ("update", "update", "nats per token", pictures.COLOURS["update_ce"]),
)
# Kinds of text that the model writes, where their names do not say what they are.
WRITTEN = {
    "own": "answers to what is forgotten",
    "sentences": "sentences with what is new",
}
FAR = 4.0  # times the largest KL from which a budget makes the axis logarithmic
# Where a number may stand beside its point, in points of an inch, the best place first.
PLACES = (
    (0, 10),
    (0, -11),
    (12, 0),
    (-12, 0),
    (10, 9),
    (-10, 9),
    (10, -10),
    (-10, -10),
)
ROOM = (12.0, 8.0)  # that a number takes, in points of an inch, across and up
Point = Mapping[str, float]


def with_budget(shown: page.Page, found: Mapping[str, Any]) -> page.Page:
    """A page that also holds the trade-off curve and what the run chose, and warns where
    what is asked was not reached.

    Args:
      found: what results.json holds as "automatic".
    """
    warned = [] if found.get("reached", True) else [_warning(found)]
    return page.Page(
        **shown
        | {
            "warnings": [*warned, *shown.get("warnings", ())],
            "figures": [*shown.get("figures", ()), *figures(found)],
            "chosen": chosen(found),
        }
    )


def _warning(found: Mapping[str, Any]) -> str:
    return (
        "Forgetting and learning did not both reach their ends within the budget of "
        f"{found['budget']:g} nats per token. The trade-off curve of the report shows how "
        "near the run came."
    )


def figures(found: Mapping[str, Any]) -> list[page.Figure]:
    """The trade-off curve; nothing where nothing was measured."""
    points = _drawable(found.get("curve", ()))
    if not points:
        return []
    exported = (
        f", and the ring is at the one that is exported, {found['step']}"
        if "step" in found
        else ""
    )
    caption = (
        f"{found.get('why', '')} Numbers are steps{exported}. Points on the left of the "
        "dashed line are within the budget; lower ones are nearer to what is asked."
    )
    svg = trade_off(points, found["budget"], found.get("step"))
    return [page.Figure(title="Trade-off curve", svg=svg, caption=caption.strip())]


def chosen(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was given and what it chose, as names and values."""
    last: Point = (found.get("curve") or [{}])[-1]
    best = _exported(found)
    rows = [("budget", f"{found['budget']:g} nats per token of KL on held-out text")]
    if "steps" in found:
        rows.append(("steps", f"{found['steps']} taken, step {found['step']} exported"))
    if "optimizer" in found:
        rows.append(
            ("directions of steps", f"{found['optimizer']} (docs/optimizers.md)")
        )
    for key, what, of in (
        ("factor", "weight of the retain term", "config.objective.gamma"),
        ("rate", "size of the steps", "config.optimizer.learning_rate"),
    ):
        if key in last:
            rows.append((f"{what} at the end", f"{last[key]:.3g} times {of}"))
    kinds = {k[3:]: v for k, v in best.items() if k.startswith("kl_")}
    if kinds:
        each = (f"{kind} {nats:.2g}" for kind, nats in kinds.items())
        rows.append(
            ("KL by kind of held-out text", f"{', '.join(each)} nats per token")
        )
    if "written" in found:
        written = {WRITTEN.get(kind, kind): n for kind, n in found["written"].items()}
        each = [f"{kind} {count}" for kind, count in written.items() if count]
        rows.append(("texts that the model wrote", ", ".join(each) or "none"))
    if "knowledge_tokens" in found:
        rows.append(("tokens that carry knowledge", f"{found['knowledge_tokens']:,}"))
    return rows


def _exported(found: Mapping[str, Any]) -> Point:
    """The point of the exported step; {} where it was not measured."""
    return point_at(found.get("curve", ()), found.get("step")) or {}


def _drawable(curve: Iterable[Point]) -> list[Point]:
    """The points that have all that is drawn, as finite numbers."""
    needed = ("step", "kl", *(key for key, *_ in GOALS))
    return [
        p
        for p in curve
        if all(math.isfinite(p.get(key, math.nan)) for key in needed) and p["kl"] > 0
    ]


def trade_off(points: Sequence[Point], budget: float, step: int | None) -> str:
    """What forgetting and learning have left to do over what they cost, as SVG.

    Args:
      points: of the run, in nats and nats per token.
      budget: nats per token.
      step: of the point that is exported.
    """
    grey = pictures.GREY
    figure = pictures.sheet(7.6, 3.3)
    kl = [point["kl"] for point in points]
    for axes, (key, name, unit, colour) in zip(
        figure.subplots(1, len(GOALS)), GOALS, strict=True
    ):
        pictures.style(axes)
        axes.plot(kl, [p[key] for p in points], "o-", color=colour, linewidth=1.2,
                  markersize=4)  # fmt: skip
        exported = point_at(points, step)
        ringed = [exported] if exported else []
        axes.plot([p["kl"] for p in ringed], [p[key] for p in ringed], "o",
                  markersize=10, markerfacecolor="none", color=colour)  # fmt: skip
        axes.axvline(budget, color=grey, linestyle="--", linewidth=1)
        _limit(axes, kl, budget, max(p[key] for p in points))
        left = axes.get_xscale() == "log"  # where the line stands near the right end
        axes.annotate(
            "budget", (budget, 1), (-3 if left else 3, -2), color=grey, fontsize=8,
            xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            ha="right" if left else "left",
        )  # fmt: skip
        axes.set_title(name, color=colour, fontsize=10)
        axes.set_ylabel(unit, color=grey)
    label = "KL on held-out text of the worst kind, nats per token"
    figure.supxlabel(label, color=grey, fontsize=10)
    figure.draw_without_rendering()  # places the axes
    for axes, (key, _, _, colour) in zip(figure.axes, GOALS, strict=True):
        _number(axes, points, key, step, colour)
    return pictures.as_svg(figure, "forgetting and learning over what they cost")


def _limit(axes, kl: Sequence[float], budget: float, high: float) -> None:
    """Axes from 0 on; a logarithmic one of the KL where the budget lies far beyond it."""
    if FAR * max(kl) < budget:
        from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(kl) / 2, budget * 3)
    else:
        axes.set_xlim(0, max(*kl, budget) * 1.15)
        axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(0, (high or 1) * 1.2)


def _number(axes, points: Sequence[Point], key: str, step: int | None, colour) -> None:
    """Writes the steps beside the points, the exported one first; a number that finds no
    free place is left out."""
    inch = 72 / axes.figure.dpi
    places = [axes.transData.transform((p["kl"], p[key])) * inch for p in points]
    taken = [tuple(place) for place in places]
    inside = axes.bbox.padded(-0.6 * ROOM[1] / inch)
    last = len(points) - 1
    rank = lambda i: (points[i]["step"] != step, i not in (0, last))
    for i in sorted(range(len(points)), key=rank):
        for right, up in PLACES:
            there = (places[i][0] + right, places[i][1] + up)
            free = not any(_close(there, other) for other in taken)
            if free and inside.contains(there[0] / inch, there[1] / inch):
                axes.annotate(
                    f"{points[i]['step']:.0f}", (points[i]["kl"], points[i][key]),
                    (right, up), textcoords="offset points", color=colour, fontsize=8,
                    ha="center", va="center",
                )  # fmt: skip
                taken.append(there)
                break


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    across, up = ROOM
    return abs(one[0] - other[0]) < across and abs(one[1] - other[1]) < up
