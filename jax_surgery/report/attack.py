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
    figure, axes = pictures.panel(7, 3.4)
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


def write(directory: str, results: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes results.json and report/index.html, and prints the table, on the lead
    process.

    Args:
      results: see `runs.attack.run`.
      settings: the exact config.
    """
    spent = results["spent"]
    cost = (
        f"{spent['steps']} steps, {spent['tokens']:,} tokens, "
        f"{spent['flops']:.3g} FLOPs"
    )
    curve, reference = results["curve"], results["reference_curve"]
    rows = []
    for points, of in ((curve, "the model"), (reference, "a model that never knew")):
        if points:
            own = table.metric_rows(points[0]["groups"], points[-1]["groups"])
            rows += [dataclasses.replace(r, name=f"{r.name}, of {of}") for r in own]
    found = curve[0]["groups"].values()
    figures = [
        page.Figure(
            title=f"How {metric.replace('_', ' ')} comes back",
            svg=curves(metric, curve, reference),
            caption="What lies above a model that never knew is what the attack brings "
            "back. The text that is asked is not the text that the adversary has.",
        )
        for metric in dict.fromkeys(name for group in found for name in group)
    ]
    shown = page.Page(
        title="Attack",
        subtitle=f"{results['attack']} on {results['model']} with "
        f"{results['shown']} records: {cost}",
        sentences=[f"spent: {cost}"],
        rows=rows,
        intervals="95 %, see the metrics",
        figures=figures,
        settings=settings,
    )
    writer.write(directory, results, shown)
