# SPDX-License-Identifier: Apache-2.0
"""Scores of tasks before and after, along alpha, and their pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_surgery.methods.subspace.overlap import Angles
from jax_surgery.methods.subspace.work import Scores, Work, is_known
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.report import page, subspace_pictures

CURVE_RECORDS = 200  # of each task along the curves


def standings(before: Scores, targets: set[str], similar: set[str]) -> dict[str, str]:
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
    found = {}
    for name, role in standing.items():
        old, new = before[name], after[name]
        gone = role == "target" and not learns
        found[name] = {
            "role": role,
            "goal": _goal(role, learns),
            "before": dataclasses.asdict(old),
            "after": dataclasses.asdict(new),
            "removed": removed(old, new) if gone else None,
            "drop": drop(old, new) if role in ("similar", "other") else None,
        }
    return found


def _goal(role: str, learns: bool) -> str:
    if role == "target":
        return "up" if learns else "chance"
    return "keep" if role != "unknown" else ""


def curve(
    work: Work,
    initial: Any,
    standing: dict[str, str],
    alphas: Sequence[float],
    at: Callable[[float], Any],
    *,
    learns: bool,
) -> list[dict[str, Any]]:
    """Scores, removal and drops along alpha, of a part of each task's text.

    Args:
      work: the model before the run, and its tasks.
      initial: parameters before the run.
      standing: see `standings`.
      at: parameters of an alpha.
    """
    if not alphas:
        return []
    known = [name for name, what in standing.items() if what != "unknown"]
    first = work.scores(initial, known, CURVE_RECORDS)
    points = []
    for alpha in alphas:
        now = work.scores(at(alpha), known, CURVE_RECORDS)
        points.append(
            {
                "alpha": alpha,
                "scores": {name: score.value for name, score in now.items()},
                "removed": {
                    name: removed(first[name], now[name])
                    for name in known
                    if standing[name] == "target" and not learns
                },
                "drop": {
                    name: drop(first[name], now[name])
                    for name in known
                    if standing[name] != "target"
                },
            }
        )
    return points


def figures(
    results: dict[str, Any],
    angles: Angles | None,
    families: dict[str, str],
    spectra: dict[str, np.ndarray],
    *,
    learns: bool,
) -> list[page.Figure]:
    """The page's pictures: along alpha, angles between tasks, spectra of the change.

    Args:
      results: of the run, with `curve`, `tasks` and `alpha`.
      angles: between the tasks, or None.
      families: of tasks.
      spectra: singular values of each matrix' change, [layers, values].
    """
    tasks, found = results["tasks"], []

    def of(role: str) -> list[str]:
        return [name for name, task in tasks.items() if task["role"] == role]

    if results["curve"]:
        svg = subspace_pictures.alpha_curves(
            results["curve"], of("target"), of("similar"), learns, used=results["alpha"]
        )
        caption = "W' = W + alpha T' for the T' found; the line is the alpha exported."
        found.append(page.Figure(title="Along alpha", svg=svg, caption=caption))
    if angles:
        svg = subspace_pictures.angle_matrix(angles.names, angles.squares, families)
        caption = (
            "Mean squared cosine of the principal angles between the tasks' input "
            f"subspaces of {angles.rank} directions, before the surgery: 1 is the same "
            "subspace."
        )
        title = "How much tasks overlap"
        found.append(page.Figure(title=title, svg=svg, caption=caption))
    svg = subspace_pictures.spectra(spectra)
    caption = "Singular values of the change of each matrix, by layer."
    return [*found, page.Figure(title="Spectra", svg=svg, caption=caption)]
