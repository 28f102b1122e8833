# SPDX-License-Identifier: Apache-2.0
"""Writes the results of an attack: results.json, the report page, the printed table."""

import dataclasses
from typing import Any

from jax_surgery.report import page, pictures, table, writer

Point = dict[str, Any]


def curves(metric: str, curve: list[Point], reference: list[Point]) -> str:
    """A metric over the steps of the attack, of every group, as SVG.

    Args:
      metric: its name.
      curve, reference: of the model, and of the one that never knew, or [].
    """
    figure, axes = pictures.panel(pictures.WIDTH, 3.4)
    colours = list(pictures.COLOURS.values())
    for number, group in enumerate(curve[0]["groups"]):
        for points, style, of in (
            (curve, "o-", ""),
            (reference, "x--", ", never knew"),
        ):
            drawn = [
                (p["steps"], p["groups"][group][metric]["value"])
                for p in points
                if metric in p["groups"][group]
            ]
            if drawn:
                colour = colours[number % len(colours)]
                label = f"{group}{of}"
                axes.plot(*zip(*drawn, strict=True), style, color=colour, label=label)
    axes.set_xlabel("steps of the attack", color=pictures.GREY)
    axes.set_ylabel(metric.replace("_", " "), color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, f"{metric} over the steps of the attack")


def tries(metric: str, curve: list[Point], reference: list[Point]) -> str:
    """A metric under each try of an attack, of every group, as SVG.

    Args:
      metric: its name.
      curve, reference: of the model, and of the one that never knew, or [].
    """
    labels = [point["label"] or "before" for point in curve]
    figure, axes = pictures.panel(pictures.WIDTH, 0.8 + 0.22 * len(labels))
    colours = list(pictures.COLOURS.values())
    for number, group in enumerate(curve[0]["groups"]):
        for points, mark, of in ((curve, "o", ""), (reference, "x", ", never knew")):
            drawn = [
                (point["groups"][group][metric]["value"], place)
                for place, point in enumerate(points)
                if metric in point["groups"][group]
            ]
            if drawn:
                colour = colours[number % len(colours)]
                own = {
                    "color": colour,
                    "label": f"{group}{of}",
                    "s": 22,
                    "marker": mark,
                }
                axes.scatter(*zip(*drawn, strict=True), **own)
    scores = (group.get(metric, {}) for group in curve[0]["groups"].values())
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


def figures(attacks: list[dict[str, Any]]) -> list[page.Figure]:
    """Pictures of attacks, as results.json holds them: a curve over the steps of those
    that train, a row a try of the others."""
    found = []
    for attack in attacks:
        curve, reference = attack["curve"], attack["reference_curve"]
        by_try = any(point["label"] for point in curve)
        draw = tries if by_try else curves
        names = (name for group in curve[0]["groups"].values() for name in group)
        found += [
            page.Figure(
                title=f"{attack['attack']}: how {metric.replace('_', ' ')} comes back",
                svg=draw(metric, curve, reference),
                caption="What lies above a model that never knew is what the attack "
                "brings back."
                + (
                    ""
                    if by_try
                    else " The text that is asked is not the text that the adversary has."
                ),
            )
            for metric in dict.fromkeys(names)
        ]
    return found


def sentence(found: dict[str, Any]) -> str:
    """The verdict as a sentence; "" where there is none."""
    return f"What was to go is {found['verdict']}: {found['why']}." if found else ""


def with_attacks(shown: page.Page, found: dict[str, Any]) -> page.Page:
    """A run's page that begins with the verdict of its own attacks, and draws them.

    Args:
      found: "verdict" and "attacks", as results.json holds them.
    """
    said = sentence(found["verdict"])
    figs = [*shown.get("figures", ()), *figures(found["attacks"])]
    first = [said] if said else []
    headlines = [*first, *shown.get("headlines", ())]
    return page.Page(**shown | {"headlines": headlines, "figures": figs})


def _rows(attack: dict[str, Any]) -> list[table.Row]:
    """Before an attack and at its end, or at the try with the highest values."""
    found = []
    for points, of in (
        (attack["curve"], "the model"),
        (attack["reference_curve"], "a model that never knew"),
    ):
        if not points:
            continue
        tried = [point for point in points if point["label"]] or points[-1:]
        for group, scores in points[0]["groups"].items():
            for metric in scores:
                value = lambda p, g=group, m=metric: p["groups"][g][m]["value"]
                worst = max(tried, key=value)
                old, new = (
                    {group: {metric: p["groups"][group][metric]}}
                    for p in (points[0], worst)
                )
                how = worst["label"] or attack["attack"]
                found += [
                    dataclasses.replace(row, name=f"{row.name}, of {of}, {how}")
                    for row in table.metric_rows(old, new)
                ]
    return found


def write(directory: str, results: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes results.json and report/index.html, and prints the table, on the lead
    process.

    Args:
      results: see `runs.attack.run`.
      settings: the exact config.
    """
    costs = [
        f"{attack['attack']}: {own['steps']} steps, {own['tokens']:,} tokens, "
        f"{own['flops']:.3g} FLOPs"
        for attack in results["attacks"]
        for own in [attack["spent"]]
    ]
    said, spent = sentence(results["verdict"]), "; ".join(costs)
    shown = page.Page(
        title="Attack",
        subtitle=f"on {results['model']} with {results['shown']} records; {spent}",
        headlines=[said] if said else [],
        sentences=[f"spent: {spent}"],
        rows=[row for attack in results["attacks"] for row in _rows(attack)],
        intervals="95 %, see the metrics",
        figures=figures(results["attacks"]),
        settings=settings,
    )
    writer.write(directory, results, shown)
