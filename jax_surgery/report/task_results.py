# SPDX-License-Identifier: Apache-2.0
"""Scores of tasks before and after, along alpha, and their pictures."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from jax_surgery.methods.subspace.overlap import RANK, Angles
from jax_surgery.methods.subspace.work import Scores, Work, is_known
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.parallel import progress
from jax_surgery.report import page, subspace_pictures

ALPHAS = (0.0, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)  # of the curves
CURVE_RECORDS = 200  # of each task along the curves


def standings(
    before: Scores, targets: Collection[str], similar: Collection[str]
) -> dict[str, str]:
    """The part of each task in a run: "target", "similar", "other" or "unknown"."""
    found = {}
    for name, score in before.items():
        standing = "other" if is_known(score) else "unknown"
        standing = "similar" if name in similar else standing
        found[name] = "target" if name in targets else standing
    return found


def of_tasks(
    before: Scores, after: Scores, standing: dict[str, str], *, learns: bool
) -> dict[str, dict[str, Any]]:
    """The `tasks` of results.json: each one's scores, what is gone, what is lost."""
    found, goals = {}, {"target": "up" if learns else "chance", "unknown": ""}
    for name, role in standing.items():
        old, new = before[name], after[name]
        gone = role == "target" and not learns
        found[name] = {
            "role": role,
            "goal": goals.get(role, "keep"),
            "before": dataclasses.asdict(old),
            "after": dataclasses.asdict(new),
            "removed": removed(old, new) if gone else None,
            "drop": drop(old, new) if role in ("similar", "other") else None,
        }
    return found


def curve(
    work: Work, initial: Any, standing: dict[str, str], at: Callable[[float], Any]
) -> list[dict[str, Any]]:
    """Scores, removal and drops along alpha, of a part of each task's text.

    Args:
      work: the model before the run, and its tasks.
      initial: parameters before the run.
      standing: see `standings`.
      at: parameters of an alpha.
    """
    known = {name: role for name, role in standing.items() if role != "unknown"}
    first = work.scores(initial, known, CURVE_RECORDS)
    points = []
    for alpha in progress.Bar(
        ALPHAS, title="scoring shares of the change", unit="share"
    ):
        now = work.scores(at(alpha), known, CURVE_RECORDS)
        tasks = of_tasks(first, now, known, learns=work.how.learns).items()
        point: dict[str, Any] = {"alpha": alpha}
        point["scores"] = {name: score.value for name, score in now.items()}
        for key in ("removed", "drop"):
            point[key] = {n: t[key] for n, t in tasks if t[key] is not None}
        points.append(point)
    return points


def figures(
    results: dict[str, Any],
    angles: Angles | None,
    families: dict[str, str],
    spectra: dict[str, np.ndarray],
    first_layer: int,
) -> list[page.Figure]:
    """The page's pictures: along alpha, angles between tasks, spectra of the change.

    Args:
      results: of the run, with `curve`, `tasks` and `alpha`.
      angles: between the tasks, or None.
      families: of tasks.
      spectra: singular values of each matrix' change, [layers, values].
      first_layer: the number of the first of these layers.
    """
    tasks, found = results["tasks"], []

    def of(role: str) -> list[str]:
        return [name for name, task in tasks.items() if task["role"] == role]

    if results["curve"]:
        svg = subspace_pictures.alpha_curves(
            results["curve"],
            of("target"),
            of("similar"),
            learns=results["run"] == "learn",
            used=results["alpha"],
        )
        caption = "W' = W + alpha T' for the T' found; the line is the alpha exported."
        found.append(page.Figure(title="Along alpha", svg=svg, caption=caption))
    if angles:
        svg = subspace_pictures.angle_matrix(angles.names, angles.squares, families)
        caption = (
            "Mean squared cosine of the principal angles between the tasks' input "
            f"subspaces of {RANK} directions, before the surgery: 1 is the same "
            "subspace."
        )
        title = "How much tasks overlap"
        found.append(page.Figure(title=title, svg=svg, caption=caption))
    svg = subspace_pictures.spectra(spectra, first_layer)
    caption = "Singular values of the change of each matrix, by layer."
    return [*found, page.Figure(title="Spectra", svg=svg, caption=caption)]
