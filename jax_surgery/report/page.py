# SPDX-License-Identifier: Apache-2.0
"""One self-contained page: tables, curves, examples, cost, config and versions."""

import importlib.metadata
import json
import pathlib
import platform
from typing import Any, TypedDict

from jax_surgery.report import pictures, table
from jax_surgery.report.table import Row

PACKAGES = ("jax_surgery", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
            "transformers", "numpy")  # fmt: skip


class Example(TypedDict):
    """One prompt, what is right, and what the model said before and after."""

    about: str
    prompt: str
    reference: str
    before: str
    after: str


class Figure(TypedDict):
    """A picture of the page's, and what it shows in a sentence or two."""

    title: str
    svg: str
    caption: str


class Page(TypedDict, total=False):
    """What a page shows; a section appears only for what was measured.

    title, subtitle: of the run. rows: of the before/after table. intervals: how theirs
    were found, or "". chances: the accuracy of guessing by group, of groups that were
    asked questions. figures: pictures that stand below the table. metrics: lines of
    metrics.jsonl. curve: accuracies by step (fractions). examples: answers. cost: of
    results.json. settings: the exact config. sentences: printed below the table.
    """

    title: str
    subtitle: str
    rows: list[Row]
    intervals: str
    chances: dict[str, float]
    figures: list[Figure]
    metrics: list[dict[str, float]]
    curve: list[dict[str, float]]
    examples: list[Example]
    cost: dict[str, Any]
    settings: dict[str, Any]
    sentences: list[str]


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the main packages."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def render(page: Page) -> str:
    """The page as HTML; texts are escaped."""
    import jinja2

    template = pathlib.Path(__file__).with_name("page.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined
    )
    metrics, curve, cost = page.get("metrics"), page.get("curve"), page.get("cost")
    chances = page.get("chances", {})
    return environment.from_string(template).render(
        **{k: v for k, v in page.items() if k != "settings"},
        settings=json.dumps(page.get("settings", {}), indent=2),
        chance_text=table.chance_text(chances),
        loss_svg=pictures.loss_curves(metrics) if metrics else "",
        accuracy_svg=pictures.accuracy_curves(curve, chances) if curve else "",
        cost_svg=pictures.cost_bars(cost) if cost else "",
        versions=json.dumps(versions(), indent=2),
    )
