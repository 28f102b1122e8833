# SPDX-License-Identifier: Apache-2.0
"""Pictures of subspace surgery: how tasks overlap, what changed, and how far to go."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_surgery.report.pictures import (
    GREY,
    as_svg,
    legend,
    panel,
    sheet,
    style,
)

WRITTEN_TASKS = 20  # with more, cells are too small for figures
DRAWN_LAYERS = 12  # with more, a band stands for them
NAMED_TARGETS = 5  # with more, all have one name
DECADES = 6  # of singular values; float32 has no more
WIDTH = 7  # inches, of a picture that fills the page
INK, PAPER = "#14181d", "#fcfcfa"
REDS = ("#c44e52", "#dd8452", "#b0607f", "#b07a4f", "#d4738a")
BLUE, GREEN = "#4c72b0", "#55a868"
# From little to much, and from the first layer to the last, on light and dark pages.
OVERLAPS = ("#3c4856", "#2f7f93", "#6cc18d", "#f6e58d")
LAYERS = ("#3f8fc4", "#9a7bc0", "#d4605a")


def angle_matrix(names: list[str], overlaps: np.ndarray, groups: dict[str, str]) -> str:
    """How much tasks' subspaces overlap, as a map from 0 to 1.

    Args:
      names: of the tasks.
      overlaps: mean squared cosines of the principal angles, [tasks, tasks].
      groups: the family of each task, "" or nothing where it has none; tasks of a
        family are put beside each other and framed.

    Raises:
      ValueError: overlaps has not a row and a column for each name.
    """
    count = len(names)
    if overlaps.shape != (count, count) or not count:
        raise ValueError(
            f"overlaps has the shape {overlaps.shape} for {count} names; it must have "
            "a row and a column for each, and there must be one."
        )
    family = [groups.get(name) or f"only {name}" for name in names]
    order = sorted(range(count), key=lambda i: family.index(family[i]))
    names = [names[i] for i in order]
    values = np.asarray(overlaps, float)[np.ix_(order, order)]
    kinds = [groups.get(name, "") for name in names]
    crowded = count > WRITTEN_TASKS
    cell = min(0.42, 5 / count)  # inches
    figure, axes = panel(WIDTH, max(1.8, cell * count + 1))
    axes.grid(visible=False)
    axes.set_aspect("equal")
    shades = _mixed(OVERLAPS)
    drawn = axes.pcolormesh(values, cmap=shades, vmin=0, vmax=1)
    size = min(9.0, 60 * cell)
    _name(axes, names, size)
    if not crowded:
        _write(axes, values, shades, min(8.0, 22 * cell))
    _frame(axes, kinds, size)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.03)
    bar.outline.set_visible(False)
    bar.ax.patch.set_alpha(0)
    bar.ax.tick_params(colors=GREY, labelsize=8)
    bar.set_label("mean squared cosine", color=GREY, fontsize=9)
    # A layout of axes with an aspect of their own is right from the second drawing on.
    figure.draw_without_rendering()
    return as_svg(figure, "overlap of the tasks' subspaces")


def _mixed(colours: Sequence[str]):
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("mixed", colours)


def _name(axes, names: list[str], size: float) -> None:
    """Names of the rows and columns, no other lines."""
    axes.tick_params(length=0, labelsize=size)
    places, steep = np.arange(len(names)) + 0.5, len(names) > WRITTEN_TASKS
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xticks(
        places, names, parse_math=False, rotation=90 if steep else 45, ha="right",
        va="center" if steep else "top", rotation_mode="anchor",
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def _write(axes, values: np.ndarray, shades, size: float) -> None:
    """Each cell's value, dark on light cells and light on dark ones."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = np.dot(shades(float(value))[:3], (0.299, 0.587, 0.114)) > 0.43
            axes.text(
                column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center",
                fontsize=size, color=INK if light else PAPER,
            )  # fmt: skip


def _frame(axes, families: list[str], size: float) -> None:
    """A frame around each family of two tasks or more, and its name beside it."""
    from matplotlib.patches import Rectangle

    count, first = len(families), 0
    for family, members in itertools.groupby(families):
        length = len(list(members))
        if family and length > 1:
            frame = Rectangle(
                (first, first), length, length, fill=False, edgecolor=PAPER,
                linewidth=1.4,
            )  # fmt: skip
            axes.add_patch(frame)
            right, ends = count + 0.2, (first + 0.12, first + length - 0.12)
            axes.plot([right] * 2, ends, color=GREY, linewidth=1.2, clip_on=False)
            axes.annotate(
                family, (right, first + length / 2), xytext=(4, 0), va="center",
                textcoords="offset points", color=GREY, fontsize=size,
                annotation_clip=False, parse_math=False,
            )  # fmt: skip
        first += length
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)


def spectra(values: dict[str, np.ndarray], first_layer: int) -> str:
    """Singular values of the change of each matrix, a panel each, on one scale.

    Args:
      values: of each matrix, [layers, k], the largest first; drawn as shares of the
        norm of all of them together.
      first_layer: the number of the first of the layers.

    Raises:
      ValueError: no matrix.
    """
    if not values:
        raise ValueError("values names no matrix; there must be one at least.")
    squares = sum(float(np.sum(np.square(v, dtype=float))) for v in values.values())
    norm = np.sqrt(squares) or 1.0
    shares = {name: np.asarray(v, float) / norm for name, v in values.items()}
    positive = np.concatenate([v[v > 0] for v in shares.values()])
    top = positive.max(initial=0) or 1.0
    bottom = max(positive.min(initial=top), top / 10**DECADES)
    columns = min(4, len(shares))
    rows = -(-len(shares) // columns)
    figure = sheet(WIDTH, 0.6 + 1.5 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(shares) :]:
        axes.remove()
    for axes, (name, share) in zip(grid.flat, shares.items(), strict=False):
        style(axes)
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.set_title(name, color=GREY, fontsize=10, parse_math=False)
        _spectrum(axes, share, bottom, first_layer)
    _scales(grid[0, 0], max(v.shape[1] for v in shares.values()), bottom, top)
    figure.supxlabel("index", color=GREY, fontsize=9)
    figure.supylabel("share of the change's norm", color=GREY, fontsize=9)
    named = {}
    for axes in grid.flat[: len(shares)]:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    if named:
        figure.legend(
            named.values(), named.keys(), frameon=False, fontsize=9, labelcolor=GREY,
            loc="outside right center",
        )  # fmt: skip
    return as_svg(figure, "singular values of the change")


def _scales(axes, longest: int, bottom: float, top: float) -> None:
    """Of all panels, which share them."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axes.set_yscale("log")
    axes.set_ylim(min(bottom, top / 10) / 1.5, top * 1.5)  # has a power of ten
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0.6, 1.03 * max(2, longest))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _spectrum(axes, share: np.ndarray, bottom: float, first_layer: int) -> None:
    """A line a layer, or of many layers their median and range; [layers, k]."""
    layers, count = share.shape
    index = np.arange(1, count + 1)
    if not share.any():
        axes.text(
            0.5, 0.5, "no change", transform=axes.transAxes, color=GREY, ha="center",
            va="center", fontsize=9,
        )  # fmt: skip
        return
    marker = "o" if count == 1 else None
    if layers > DRAWN_LAYERS:
        low, high = (
            np.maximum(end, bottom) for end in (share.min(axis=0), share.max(axis=0))
        )
        axes.fill_between(
            index, low, high, color=LAYERS[0], alpha=0.3, linewidth=0,
            label="least to most",
        )  # fmt: skip
        axes.plot(
            index, np.median(share, axis=0), color=LAYERS[0], linewidth=1.8,
            marker=marker, label=f"median of\n{layers} layers",
        )  # fmt: skip
        return
    shades = _mixed(LAYERS)
    named = {0, layers // 2, layers - 1}
    for layer, line in enumerate(share):
        axes.plot(
            index, np.where(line >= bottom, line, np.nan), linewidth=1.3,
            color=shades(layer / max(1, layers - 1)), marker=marker, markersize=4,
            label=f"layer {first_layer + layer}" if layer in named else None,
        )  # fmt: skip


def alpha_curves(
    points: list[dict[str, Any]],
    targets: list[str],
    similar: list[str],
    learns: bool,
    used: float,
) -> str:
    """Targets and retained tasks along alpha, percent.

    Args:
      points: each has "alpha", and by task "scores" (0 to 1), "removed" (share, of
        targets) and "drop" (share lost, of retained tasks); what was not known is None or
        NaN, or is not there.
      targets: names of the targets.
      similar: the retained tasks that are similar to a target.
      learns: whether targets are added: their scores are drawn; of what is removed,
        how much of it is gone.
      used: the alpha of the model that is written.

    Raises:
      ValueError: no points.
    """
    if not points:
        raise ValueError("there are no points to draw; measure at one alpha at least.")
    points = sorted(points, key=lambda point: point["alpha"])
    alphas = [point["alpha"] for point in points]
    figure, axes = panel(WIDTH, 3.4)
    drawn = []

    def line(
        values: np.ndarray,
        label: str | None,
        colour: str,
        width: float = 1.8,
        style: str = "-",
    ) -> None:
        drawn.append(values)
        axes.plot(
            alphas, values, label=label, color=colour, marker="o", markersize=3.5,
            linewidth=width, linestyle=style,
        )  # fmt: skip

    key, verb = ("scores", "score") if learns else ("removed", "removed")
    few = len(targets) <= NAMED_TARGETS
    for number, name in enumerate(targets):
        label = f"{verb}: {name}" if few else f"{verb}: each of {len(targets)}"
        line(
            _percents(points, key, name),
            label if few or not number else None,
            REDS[number % len(REDS)] if few else REDS[0],
            width=1.8 if few else 1.0,
        )
    retained = dict.fromkeys(name for p in points for name in p["drop"])
    near = [name for name in retained if name in similar]
    far = [name for name in retained if name not in similar]
    for members, label, colour in ((near, "similar", BLUE), (far, "others", GREEN)):
        left = np.ma.masked_invalid(
            [100 - _percents(points, "drop", name) for name in members]
        )
        if len(members) == 1:
            line(left[0].filled(np.nan), f"retained: {members[0]}", colour)
        elif members:
            mean, worst = (x.filled(np.nan) for x in (left.mean(0), left.min(0)))
            line(mean, f"retained: {label}, mean", colour)
            line(worst, f"retained: {label}, worst", colour, style="--")
    axes.axvline(used, color=GREY, linestyle=":", linewidth=1.4)
    axes.annotate(
        f"used: {used:g}", (used, 1), xycoords=("data", "axes fraction"), color=GREY,
        xytext=(0, 3), textcoords="offset points", fontsize=8, ha="center",
    )  # fmt: skip
    seen = np.concatenate([[0.0, 100.0], *drawn])
    seen = seen[np.isfinite(seen)]
    axes.set_ylim(max(seen.min(), -50) - 3, min(seen.max(), 200) + 3)
    axes.set_xlabel("alpha", color=GREY)
    axes.set_ylabel("%", color=GREY)
    legend(axes)
    return as_svg(figure, "targets and retained tasks along alpha")


def score_bars(runs: dict[str, dict[str, tuple[float, float]]]) -> str:
    """What several runs leave of each task, percent, beside what it was before.

    Args:
      runs: by the run's name the scores (before, after) of each task, 0 to 1; of the same
        tasks.
    """
    tasks = list(next(iter(runs.values())))
    figure, axes = panel(WIDTH, 0.8 + (0.1 + 0.14 * len(runs)) * len(tasks))
    height = 0.8 / len(runs)
    for number, (label, scores) in enumerate(runs.items()):
        places = np.arange(len(tasks)) + (number - (len(runs) - 1) / 2) * height
        after = [100 * scores[name][1] for name in tasks]
        colour = (GREEN, REDS[0], BLUE)[number % 3]
        axes.barh(places, after, height, color=colour, label=label)
    before = [100 * next(iter(runs.values()))[name][0] for name in tasks]
    axes.plot(before, range(len(tasks)), "|", color=GREY, markersize=14, label="before")
    axes.set_yticks(range(len(tasks)), tasks, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("score, %", color=GREY)
    axes.grid(visible=False)
    legend(axes)
    return as_svg(figure, "what runs leave of each task")


def _percents(points: list[dict[str, Any]], key: str, name: str) -> np.ndarray:
    """A task's values at each point, NaN where it has none."""
    found = (point[key].get(name) for point in points)
    return np.array([np.nan if v is None else 100 * v for v in found])
