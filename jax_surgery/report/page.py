# SPDX-License-Identifier: Apache-2.0
"""One self-contained page: tables, curves, examples, cost, config and versions."""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax_surgery
from jax_surgery.report import pictures, table
from jax_surgery.report.summary import Answer
from jax_surgery.report.table import Row

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers",
            "numpy")  # fmt: skip
LEVELS = (0.1, 0.5, 1.0, 2.0)  # nats from which a token has the next colour


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


class Marked(TypedDict):
    """A text as its tokens, each with how much it tells, in nats."""

    about: str
    tokens: Sequence[tuple[str, float]]


class AttackRow(TypedDict):
    """What attacks of a family bring back of a group, at the try that brings back most.

    attack: the family. where: the try. tries: how many there were. group, metric: what was
    asked, and how it is scored. before, after: the share without an attack ("" where it was
    not asked) and under it. never: that of a model that never knew, or of chance
    (by_chance). above: points that after lies above it. robustness: "" where that is not
    known. count: how many were asked.
    """

    attack: str
    where: str
    tries: int
    group: str
    metric: str
    before: str
    after: str
    never: str
    by_chance: bool
    above: str
    robustness: str
    count: int


class Page(TypedDict, total=False):
    """What a page shows; a section appears only for what was measured.

    title, subtitle: of the run. verdict: the run in one line (see `summary`). unfinished:
    of a run that goes on or was stopped, what this page is; reload: seconds after which
    such a page reads itself again, 0 for never. headlines: what a person wants to know
    first, in sentences. warnings: what must be known before the model is used.

    rows: of the before/after table. single: whether they have no "before". now: the head
    of the column "after" where it is another. intervals: how theirs were found, or "".
    chances: the accuracy of guessing by group, of groups that were asked questions.
    attacks: what each family of attacks brings back.
    chosen: what the run chose by itself, names and values. figures: pictures that stand
    below the table. metrics: lines of metrics.jsonl. curve: accuracies by step
    (fractions). examples: answers; more_examples: those that are folded away. knowledge:
    texts whose tokens are coloured by how much of what is to be forgotten they tell.
    cost: of results.json. settings: the exact config. sentences: printed below the table.
    """

    title: str
    subtitle: str
    verdict: list[Answer]
    unfinished: str
    reload: int
    headlines: list[str]
    warnings: list[str]
    rows: list[Row]
    single: bool
    now: str
    intervals: str
    chances: dict[str, float]
    attacks: list[AttackRow]
    chosen: list[tuple[str, str]]
    figures: list[Figure]
    metrics: list[dict[str, float]]
    curve: list[dict[str, float]]
    examples: list[Example]
    more_examples: list[Example]
    knowledge: list[Marked]
    cost: dict[str, Any]
    settings: dict[str, Any]
    sentences: list[str]


def _level(nats: float) -> int:
    """Which of the steps of `LEVELS` a value has reached; 0 for what is no number."""
    return sum(nats >= least for least in LEVELS)


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the main packages."""
    found = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "jax_surgery": jax_surgery.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def render(page: Page) -> str:
    """The page as HTML; texts are escaped."""
    metrics, curve, cost = page.get("metrics"), page.get("curve"), page.get("cost")
    chances = page.get("chances", {})
    return filled(
        "page.html",
        {
            **page,
            "chance_text": table.chance_text(chances),
            "levels": LEVELS,
            "loss_svg": pictures.loss_curves(metrics) if metrics else "",
            "accuracy_svg": pictures.accuracy_curves(curve, chances) if curve else "",
            "cost_svg": pictures.cost_bars(cost) if cost else "",
        },
    )


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of this folder as HTML; texts are escaped.

    Args:
      values: by the names that the template has, and the settings.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters["level"] = _level
    settings = json.dumps(values.get("settings", {}), indent=2)
    about = {"settings": settings, "versions": json.dumps(versions(), indent=2)}
    return environment.get_template(template).render(**{**values, **about})
