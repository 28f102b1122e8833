# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run as SVG text, for pages that need no other file."""

import html
import io
import itertools
import math
import re
from typing import Any

COLOURS = {
    "obsolete": "#c44e52",
    "problematic": "#dd8452",
    "update": "#4c72b0",
    "retain": "#55a868",
    "general": "#8172b3",
    "unlearn_ce": "#c44e52",
    "update_ce": "#4c72b0",
    "retain_kl": "#55a868",
    "unlearn_loss": "#dd8452",
    "retain_ce": "#55a868",
    "retain_loss": "#55a868",
    "pushed_down": "#c44e52",
    "pushed_up": "#4c72b0",
}
PUSHED = {"pushed_down": "to forget", "pushed_up": "to know"}
LABELS = {
    "unlearn_ce": "unlearn: CE",
    "update_ce": "update: CE",
    "retain_kl": "retain: KL",
    "unlearn_loss": "unlearn: loss",
    "retain_ce": "retain: CE",
    "retain_loss": "retain: loss",
}
WIDTH = 5.4  # inches; with texts of 9 points it can be read on a phone
LETTERS = 66  # of a legend's line
GREY = "#808890"  # of lines and texts; the page replaces it by its own


def sheet(width: float, height: float):
    """A transparent figure without axes; sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def style(axes) -> None:
    """Grey lines on a transparent background."""
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(which="both", colors=GREY, labelsize=9)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)


def panel(width: float, height: float):
    """A figure and its only axes."""
    figure = sheet(width, height)
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def as_svg(figure, title: str) -> str:
    """The figure as SVG that scales to its place, and whose `GREY` is the colour of the
    text around it; screen readers read the title."""
    import matplotlib

    buffer = io.StringIO()
    # The same run gives the same page: no date, and names that do not change.
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        # Tight: names beside a picture are never cut off.
        shown = {"bbox_inches": "tight", "pad_inches": 0.05}
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **shown)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    # What is grey has the colour of the page's text, light or dark or printed.
    svg = svg.replace(GREY, "currentColor")
    label = html.escape(title)
    # What would be too small on a phone keeps its size, and is scrolled.
    wide = ' class="wide"' if figure.get_figwidth() > WIDTH else ""
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"{wide}', 1)


def legend(axes) -> None:
    """Names of what is drawn, below the picture, which grows by them, where anything has
    one."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = max(1, min(len(labels), LETTERS // (max(map(len, labels)) + 5)))
    figure = axes.figure
    figure.set_figheight(
        figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns)
    )
    shown = figure.legend(
        handles, labels, frameon=False, fontsize=9, labelcolor=GREY, ncols=columns,
        loc="outside lower center",
    )  # fmt: skip
    for text in shown.get_texts():
        text.set_parse_math(False)


def _lines(axes, rows: list[dict[str, Any]], names: list[str], scale=1.0) -> None:
    for name in names:
        points = [(r["step"], scale * r[name]) for r in rows if name in r]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=(LABELS | PUSHED).get(name, name),
                color=COLOURS.get(name, GREY),
                linewidth=1.8,
                marker="o" if len(points) < 20 else None,
                markersize=3.5,
            )
    legend(axes)
    axes.set_xlabel("step", color=GREY)


def loss_curves(metrics: list[dict[str, Any]]) -> str:
    """The three terms over steps, nats, on a logarithmic axis; "" where there are none.

    Of a method of hidden states they are its own terms, which are not in nats.
    """
    names = [name for name in LABELS if any(name in row for row in metrics)]
    if "unlearn_ce" in names:
        names = [name for name in names if name != "unlearn_loss"]
    if not names:
        return ""
    figure, axes = panel(WIDTH, 3.4)
    _lines(axes, metrics, names)
    axes.set_yscale("symlog", linthresh=0.01)
    in_nats = not {"unlearn_loss", "retain_loss"} & set(names)
    axes.set_ylabel("nats" if in_nats else "loss", color=GREY)
    return as_svg(figure, "the three terms over steps")


def tokens_left(metrics: list[dict[str, Any]]) -> str:
    """How many tokens of each round's batch are not at their ends yet; "" where that is
    not in the metrics."""
    names = [n for n in PUSHED if any(n in r for r in metrics)]
    if not names:
        return ""
    figure, axes = panel(WIDTH, 2.6)
    _lines(axes, metrics, names)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("round", color=GREY)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("tokens", color=GREY)
    return as_svg(figure, "tokens that are not at their ends over rounds")


def accuracy_curves(curve: list[dict[str, Any]], chances: dict[str, float]) -> str:
    """Accuracies over steps, percent, with a line for each level of chance; "" where
    no questions were asked.

    Args:
      curve: accuracies by group of each step, fractions.
      chances: the accuracy of guessing by group, fractions.
    """
    names = [n for n in COLOURS if any(n in row for row in curve)]
    names += [n for row in curve for n in row if n not in (*COLOURS, "step", *names)]
    if not names:
        return ""
    figure, axes = panel(WIDTH, 3.4)
    levels: dict[float, list[str]] = {}
    for name, chance in chances.items():
        levels.setdefault(round(100 * chance, 1), []).append(name)
    for level, groups in levels.items():
        axes.axhline(level, color=GREY, linestyle="--", linewidth=1)
        label = "chance" if len(levels) == 1 else f"chance of {', '.join(groups)}"
        axes.annotate(
            label, (1, level), xycoords=("axes fraction", "data"), color=GREY,
            fontsize=8, ha="right", va="top", parse_math=False,
        )  # fmt: skip
    _lines(axes, curve, list(dict.fromkeys(names)), scale=100.0)
    axes.set_ylim(0, 103)
    axes.set_ylabel("accuracy, %", color=GREY)
    return as_svg(figure, "accuracies over steps")


def cost_bars(cost: dict[str, Any]) -> str:
    """FLOPs of the surgery, by item, beside the naive alternative's where known."""
    figure, axes = panel(WIDTH, 1.7)
    left = 0.0
    shades = ("#c44e52", "#dd8452", "#8172b3", "#937860")
    items = zip(cost["items"].items(), itertools.cycle(shades), strict=False)
    for (name, value), colour in items:
        axes.barh(1, value, left=left, color=colour, label=name, height=0.55)
        left += value
    if "baseline_flops" in cost:
        axes.barh(0, cost["baseline_flops"], color="#4c72b0", height=0.55)
        axes.set_yticks([1, 0], ["surgery", "naive alternative"])
    else:
        axes.set_yticks([1], ["surgery"])
    axes.set_xlabel("FLOPs", color=GREY)
    axes.grid(visible=False)
    legend(axes)
    return as_svg(figure, "cost in FLOPs")
