# SPDX-License-Identifier: Apache-2.0
"""What unlearn and learn leave: results.json, the report page, the table."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from jax_surgery.methods.subspace.overlap import Angles
from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.methods.subspace.subject import Scores, Subject, is_known
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes
from jax_surgery.report import page, subspace_pictures, table
from jax_surgery.report.outcome import Examples

EXAMPLES_A_TASK, EXAMPLE_TOKENS = 2, 32
TITLES = {"unlearn": "Tasks removed", "learn": "Tasks added"}


def roles(before: Scores, similar: set[str], settings: SubspaceSettings):
    """What each task is to a run: "target", "similar", "other", or "unknown"."""
    targets = {name for stage in settings.tasks.stages for name in stage}
    found = {}
    for name, score in before.items():
        role = "other" if is_known(score, settings) else "unknown"
        role = "similar" if name in similar else role
        found[name] = "target" if name in targets else role
    return found


def of_tasks(
    before: Scores, after: Scores, similar: set[str], settings: SubspaceSettings
) -> dict[str, dict[str, Any]]:
    """The `tasks` of results.json: each one's scores, what is gone, what is lost."""
    found = {}
    for name, role in roles(before, similar, settings).items():
        old, new = before[name], after[name]
        gone = role == "target" and not settings.learns
        found[name] = {
            "role": role,
            "goal": _goal(role, settings),
            "before": dataclasses.asdict(old),
            "after": dataclasses.asdict(new),
            "removed": removed(old, new) if gone else None,
            "drop": drop(old, new) if role in ("similar", "other") else None,
        }
    return found


def _goal(role: str, settings: SubspaceSettings) -> str:
    if role == "target":
        return "up" if settings.learns else "chance"
    return "keep" if role != "unknown" else ""


def curve(
    subject: Subject,
    came: Any,
    before: Scores,
    similar: set[str],
    at: Callable[[float], Any],
) -> list[dict[str, Any]]:
    """Scores, removal and drops along alpha, of a part of each task's text.

    Args:
      came: parameters that `before` are the scores of.
      at: parameters of an alpha.
    """
    settings = subject.settings
    role = roles(before, similar, settings)
    known = [name for name, what in role.items() if what != "unknown"]
    limit = settings.report.records
    if not settings.report.points:
        return []
    first = subject.scores(came, known, limit)
    points = []
    for alpha in settings.report.points:
        now = subject.scores(at(alpha), known, limit)
        points.append(
            {
                "alpha": alpha,
                "scores": {name: score.value for name, score in now.items()},
                "removed": {
                    name: removed(first[name], now[name])
                    for name in known
                    if role[name] == "target" and not settings.learns
                },
                "drop": {
                    name: drop(first[name], now[name])
                    for name in known
                    if role[name] != "target"
                },
            }
        )
    return points


def examples_of(subject: Subject, came: Any) -> Examples:
    """Greedy answers to the starts of some texts of every task.

    Args:
      came: the parameters before.
    """
    decode = subject.tokenizer.decode
    about, prompts, references, longest = [], [], [], 1
    for name, text in subject.texts.items():
        for document in text.documents[:EXAMPLES_A_TASK]:
            first = int(np.argmax(document.learned[1:])) + 1
            answer = document.tokens[first:]
            longest = max(longest, len(answer))
            about.append(name)
            prompts.append(decode(document.tokens[:first], skip_special_tokens=True))
            references.append(decode(answer, skip_special_tokens=True).strip())
    tokens = min(longest, EXAMPLE_TOKENS)
    return Examples(subject, came, about, prompts, references, tokens)


def write(
    directory: str,
    results: dict[str, Any],
    subject: Subject,
    angles: Angles | None,
    *,
    spectra: dict[str, jax.Array],
    examples: list[page.Example],
) -> None:
    """Writes results.json and report/index.html, and prints the table; of many
    processes one does."""
    values = {name: meshes.fetch(s_LK) for name, s_LK in spectra.items()}
    if not distributed.is_lead():
        return
    settings, folder = subject.settings, epath.Path(directory)
    plain = dataclasses.asdict(settings)
    everything = results | {"settings": plain, "versions": page.versions()}
    (folder / "results.json").write_text(json.dumps(everything, indent=2) + "\n")
    rows = table.task_rows(results["tasks"])
    stages = " then ".join(", ".join(names) for names in settings.tasks.stages)
    html = page.render(
        page.Page(
            title=f"{TITLES[settings.run]}: {stages}",
            subtitle=f"model {settings.model}, alpha {results['alpha']:g}, the moving "
            f"matrices changed by {results['change_norm']:.1%}, seed {settings.seed}",
            rows=rows,
            intervals="Wilson, bootstrap",
            examples=examples,
            settings=plain,
            figures=_figures(results, subject, angles, values),
        )
    )
    report = folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    (report / "index.html").write_text(html)
    print("\n" + table.as_text(rows))
    print(f"{sum(results['seconds']):.1f} s for {stages}")
    print(
        f"model: {folder / 'model'}\nedit: {folder / 'edit.safetensors'}\n"
        f"report: {report / 'index.html'}"
    )


def _figures(results, subject: Subject, angles: Angles | None, spectra) -> list[Any]:
    settings, tasks = subject.settings, results["tasks"]
    of = lambda role: [name for name, task in tasks.items() if task["role"] == role]
    figures = []
    if results["curve"]:
        svg = subspace_pictures.alpha_curves(
            results["curve"],
            of("target"),
            of("similar"),
            settings.learns,
            used=results["alpha"],
        )
        caption = "W' = W + alpha T' for the T' found; the line is the alpha exported."
        figures.append(page.Figure(title="Along alpha", svg=svg, caption=caption))
    if angles:
        groups = {name: text.task.family for name, text in subject.texts.items()}
        svg = subspace_pictures.angle_matrix(angles.names, angles.squares, groups)
        caption = (
            "Mean squared cosine of the principal angles between the tasks' input "
            f"subspaces of {settings.report.angles} directions, before the surgery: 1 "
            "is the same subspace."
        )
        title = "How much tasks overlap"
        figures.append(page.Figure(title=title, svg=svg, caption=caption))
    svg = subspace_pictures.spectra(spectra)
    caption = "Singular values of the change of each matrix, by layer."
    return [*figures, page.Figure(title="Spectra", svg=svg, caption=caption)]
