# SPDX-License-Identifier: Apache-2.0
"""What a model says on the way of an attack."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any

from jax_surgery.attacks.base import Attack, Budget, Target
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
    **how: Any,
) -> dict[str, list[Point]]:
    """The curves of several attacks, by name; before them the model is asked once.

    Args:
      how: see `measured`.
    """
    found: dict[str, list[Point]] = {}
    before = None
    for name, attack in attacks:
        found[name] = measured(attack, model, target, measure, before=before, **how)
        before = found[name][0]
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

    def note(
        spent: Budget, model: Model, probes: tuple[Probe, ...], label: str
    ) -> None:
        groups = measure(model, probes)
        points.append(dataclasses.asdict(spent) | {"label": label, "groups": groups})

    def watch(
        spent: Budget,
        model: Model,
        *,
        label: str = "",
        probes: tuple[Probe, ...] | None = None,
    ) -> None:
        if label or (spent.steps and spent.steps in at):
            note(spent, model, probes or target.probes, label)

    if before:
        points.append(before)
    else:
        note(Budget(), model, target.probes, "")
    attacked = attack(model, target, budget, seed, watch)
    if points[-1]["steps"] != attacked.spent.steps or len(points) == 1:
        note(attacked.spent, attacked.model, attacked.probes, "")
    return points
