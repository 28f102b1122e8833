# SPDX-License-Identifier: Apache-2.0
"""What a model says on the way of an attack."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any

from jax_surgery.attacks.base import Attack, Budget, Found, Target
from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model

Point = dict[str, Any]
NO_LIMIT = Budget()
# Scores of a model on probes, by group and metric.
Measure = Callable[[Model, tuple[Probe, ...]], dict[str, Any]]


def all_measured(
    attacks: Iterable[tuple[str, Attack]],
    model: Model,
    target: Target,
    measure: Measure,
    after: Callable[[str, list[Point]], object] = lambda name, points: None,
    **how: Any,
) -> dict[str, list[Point]]:
    """The curves of several attacks, by name; before them the model is asked once.

    Args:
      after: is given each curve when it is there.
      how: see `measured`.
    """
    found: dict[str, list[Point]] = {}
    before = None
    for name, attack in attacks:
        found[name] = measured(attack, model, target, measure, before=before, **how)
        before = found[name][0]
        after(name, found[name])
    return found


def measured(
    attack: Attack,
    model: Model,
    target: Target,
    measure: Measure,
    *,
    budget: Budget = NO_LIMIT,
    seed: int = 0,
    at: Collection[int] = (),
    before: Point | None = None,
) -> list[Point]:
    """The points of an attack's curve, the first before it.

    Args:
      budget: see `Attack`.
      at: steps after which a model is asked that is on its way; tries of their own are
        asked all, and so is the model that an attack ends with.
      before: the first point, where the same model was asked the same already.

    Returns:
      {"steps", "tokens", "flops", "label": what was done, "" on the way; "groups": what
      `measure` gives} a point.
    """
    points: list[Point] = []

    def note(spent: Budget, groups: dict[str, Any], label: str) -> None:
        points.append(dataclasses.asdict(spent) | {"label": label, "groups": groups})

    def watch(
        spent: Budget,
        model: Model,
        *,
        label: str = "",
        probes: tuple[Probe, ...] | None = None,
        found: Found | None = None,
    ) -> None:
        if label or (spent.steps and spent.steps in at):
            asked = None if found else measure(model, probes or target.probes)
            note(spent, asked or _plain(found or {}), label)

    if before:
        points.append(before)
    else:
        note(Budget(), measure(model, target.probes), "")
    attacked = attack(model, target, budget, seed, watch)
    if points[-1]["steps"] != attacked.spent.steps or len(points) == 1:
        note(attacked.spent, measure(attacked.model, attacked.probes), "")
    return points


def _plain(found: Found) -> dict[str, Any]:
    """Scores as `measure` gives them."""
    return {
        group: {name: dataclasses.asdict(one) for name, one in scores.items()}
        for group, scores in found.items()
    }
