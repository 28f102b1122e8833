# SPDX-License-Identifier: Apache-2.0
"""A plan as a picture: the memory of each program and neighbour, by what it is for."""

import io
from typing import Any

import numpy as np

from jax_surgery.plan.report import GIB, SHOWN

COLOURS = {
    "parameters": "#4c72b0",
    "optimizer": "#dd8452",
    "reference": "#8172b3",
    "statistics": "#da8bc3",
    "kept tasks": "#da8bc3",
    "change": "#ccb974",
    "batch": "#937860",
    "temporaries": "#55a868",
    "needs": "#c44e52",
}


def picture(results: dict[str, Any]) -> bytes:
    """Bars of memory per chip, by part: the programs and the neighbours; PNG.

    Args:
      results: as results.json holds them.
    """
    from matplotlib.figure import Figure

    programs = {
        name: found | {"has": results["has"]}
        for name, found in results["programs"].items()
    }
    others = {near["flags"]: near for near in results["neighbours"]}
    bars = {k: bar for k, bar in (programs | others).items() if bar["needs"]}
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    parts = [bar["memory"] or {"needs": bar["needs"]} for bar in bars.values()]
    ends = np.zeros(len(bars))
    for name, colour in COLOURS.items():
        if not any(name in each for each in parts):
            continue
        label = "does not fit" if name == "needs" else SHOWN.get(name, name)
        sizes = np.array([each.get(name, 0) / GIB for each in parts])
        axes.barh(range(len(bars)), sizes, left=ends, color=colour, label=label)
        ends = ends + sizes
    for place, (end, bar) in enumerate(zip(ends, bars.values(), strict=True)):
        # The line that it must not cross, and its total.
        axes.plot([bar["has"] / GIB] * 2, [place - 0.42, place + 0.42], color="black")
        axes.text(
            end + 0.06,
            place,
            f"{bar['needs'] / GIB:.2f}",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    names = [
        name.replace("--config.", "").replace("surgery.", "").replace("\n", " ")
        for name in bars
    ]
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("GiB per chip; the line is what a program may use")
    axes.set_title(
        f"{results['model']} on {results['topology']}, {results['chips']} chips",
        fontsize=10,
    )
    axes.margins(x=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
