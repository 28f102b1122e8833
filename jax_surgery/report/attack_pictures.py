# SPDX-License-Identifier: Apache-2.0
"""Pictures of attacks, as results.json holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax_surgery.report import page, pictures

Point = dict[str, Any]
# The points of an attack, and those of the same on a model that never knew, or [].
Cell = tuple[list[Point], list[Point]]


def groups_of(points: Sequence[Point], metric: str) -> list[str]:
    """The groups of which a metric was measured."""
    found = (g for p in points for g, scores in p["groups"].items() if metric in scores)
    return list(dict.fromkeys(found))


def metrics_of(points: Sequence[Point]) -> list[str]:
    """The metrics that were measured."""
    scores = (one for point in points for one in point["groups"].values())
    return list(dict.fromkeys(name for one in scores for name in one))


def value_of(point: Point, group: str, metric: str) -> float | None:
    """A score; None where it was not measured at this point."""
    return point["groups"].get(group, {}).get(metric, {}).get("value")


def curves(metric: str, cells: Sequence[Cell]) -> str:
    """A metric over the steps of attacks that differ in their options, of every group, as
    SVG: each thin, and the highest of them at each step."""
    figure, axes = pictures.panel(pictures.WIDTH, 3.4)
    colours = list(pictures.COLOURS.values())
    steps = {0}
    for number, group in enumerate(groups_of(cells[0][0], metric)):
        colour = colours[number % len(colours)]
        for which, style, of in ((0, "o-", ""), (1, "x--", ", never knew")):
            drawn = [_values(cell[which], group, metric) for cell in cells]
            drawn = [values for values in drawn if values]
            for values in drawn if len(drawn) > 1 and not which else ():
                axes.plot(*zip(*values.items()), color=colour, alpha=0.3, linewidth=0.8)
            if highest := _highest(drawn):
                steps |= highest.keys()
                worst = f", highest of {len(drawn)}" if len(drawn) > 1 else ""
                label = f"{group}{of}{worst}"
                axes.plot(*zip(*highest.items()), style, color=colour, label=label)
    # The first steps tell most.
    axes.set_xscale("symlog", linthresh=min(steps - {0}, default=1))
    axes.set_xlim(left=0)
    axes.set_xticks(sorted(steps), [str(step) for step in sorted(steps)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of the attack", color=pictures.GREY)
    axes.set_ylabel(metric.replace("_", " "), color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, f"{metric} over the steps of the attack")


def _values(points: Sequence[Point], group: str, metric: str) -> dict[int, float]:
    """A group's values by step."""
    pairs = ((point["steps"], value_of(point, group, metric)) for point in points)
    return {step: value for step, value in pairs if value is not None}


def _highest(drawn: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The highest value at each step."""
    steps = sorted({step for values in drawn for step in values})
    return {s: max(values[s] for values in drawn if s in values) for s in steps}


def tries(metric: str, curve: list[Point], reference: list[Point]) -> str:
    """A metric under each try of an attack, of every group, as SVG.

    Args:
      metric: its name.
      curve, reference: of the model, and of the one that never knew, or [].
    """
    shown = [point for point in curve if groups_of([point], metric)]
    there = {(point["label"], point["steps"]): point for point in reference}
    never = [there.get((point["label"], point["steps"])) for point in shown]
    labels = [point["label"] or "before" for point in shown]
    figure, axes = pictures.panel(pictures.WIDTH, 0.8 + 0.22 * len(labels))
    colours = list(pictures.COLOURS.values())
    groups = groups_of(shown, metric)
    for number, group in enumerate(groups):
        for points, mark, of in ((shown, "o", ""), (never, "x", ", never knew")):
            drawn = [
                (value, place)
                for place, point in enumerate(points)
                if point and (value := value_of(point, group, metric)) is not None
            ]
            if drawn:
                own = {"color": colours[number % len(colours)], "s": 22, "marker": mark}
                label = f"{group}{of}"
                axes.scatter(*zip(*drawn, strict=True), **own, label=label)
    scores = (shown[0]["groups"][g].get(metric, {}) for g in shown[0]["groups"])
    chances = {score.get("reference") for score in scores} - {None}
    if len(chances) == 1 and not reference:
        axes.axvline(chances.pop(), color=pictures.GREY, linestyle=":", label="chance")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(metric.replace("_", " "), color=pictures.GREY)
    axes.grid(axis="x", color=pictures.GREY, alpha=0.25, linewidth=0.6)
    pictures.legend(axes)
    return pictures.as_svg(figure, f"{metric} under each try of the attack")


def figures(attacks: Sequence[Mapping[str, Any]]) -> list[page.Figure]:
    """Pictures of attacks: curves over the steps of those that train, a family in one; a
    row a try of the others.

    Args:
      attacks: as results.json holds them.
    """
    families: dict[str, list[Cell]] = {}
    for attack in attacks:
        cell = (attack["curve"], attack["reference_curve"])
        families.setdefault(attack.get("family", attack["attack"]), []).append(cell)
    found = []
    for family, cells in families.items():
        points = [point for curve, _ in cells for point in curve]
        by_try = any(point["label"] for point in points)
        for metric in metrics_of(points):
            svg = tries(metric, *cells[0]) if by_try else curves(metric, cells)
            found.append(
                page.Figure(
                    title=f"{family}: how {metric.replace('_', ' ')} comes back",
                    svg=svg,
                    caption="What lies above a model that never knew is what the attack "
                    "brings back." + ("" if by_try else _of_text(family)),
                )
            )
    return found


def _of_text(family: str) -> str:
    """What must be known of the text that is asked after training."""
    if "on=all" in family:
        return " The adversary has all text, and is asked about it."
    return " The text that is asked is not the text that the adversary has."
