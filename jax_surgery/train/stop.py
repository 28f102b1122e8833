# SPDX-License-Identifier: Apache-2.0
"""When a run stops, and which of its points is exported: rules as config.

At each evaluation a run has a point: what it still knows of each group of text, as shares of
answers (or of tokens) that are right. A group to be unlearned has a reference, which is the
score of a model that never knew it. A point is described by

    forget   the largest distance of a group to be unlearned to its reference, above or below:
             what is right less often than by chance is known, and avoided
    drop     how much less is right of what is to be retained than before the run
    update   the mean score of what is to be learned; absent where there is none

A point is on the Pareto front where no other is as good in all of these and better in one.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from jax_surgery.config import at_least

RESULTS = "results.json"
# Of results.json: where runs that evaluate, pretrain, and change models have scores.
SCORES = ("after", "evaluation")
Point = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Stop:
    """Rules of when a run stops (`config.stop`); where one is set, the Pareto front of the
    run is kept, and the chosen point of it is exported.

    Attributes:
      reference: the run ends at the first evaluation at which no group to be unlearned
        scores above its reference: "chance" of its questions, a score from 0 to 1, or the
        workdir (or results.json) of a run whose model never knew; "" is no rule.
      retention: the run ends where the mean score of what is retained has dropped by more
        than this; 0 is no rule.
      keep: models of the front that are kept in front/, at most, those that would be
        chosen first; 0 keeps all.
    """

    reference: str
    retention: float
    keep: int

    def __post_init__(self):
        at_least(0, self, "config.stop", "retention", "keep")
        if self.retention >= 1:
            raise ValueError(
                f"config.stop.retention={self.retention:g} is a share of right answers; "
                "use 0 to below 1, such as 0.02."
            )

    @property
    def is_used(self) -> bool:
        """Whether any rule is set."""
        return bool(self.reference or self.retention)

    def references(self, chances: Mapping[str, float]) -> dict[str, float]:
        """The reference of each group.

        Args:
          chances: scores of guessing, by group.

        Raises:
          FileNotFoundError, ValueError: what is named is no run, or lacks a group.
        """
        given = self.reference.strip()
        if given in ("", "chance"):
            return dict(chances)
        try:
            score = float(given)
        except ValueError:
            return _scores_of_run(given, chances)
        if not 0 <= score <= 1:
            raise ValueError(f"config.stop.reference={given} is a score; use 0 to 1.")
        return dict.fromkeys(chances, score)


def _scores_of_run(given: str, groups: Iterable[str]) -> dict[str, float]:
    """The scores of the model that a finished run has evaluated, or made."""
    file = epath.Path(given)
    file = file if file.name == RESULTS else file / RESULTS
    if not file.exists():
        raise FileNotFoundError(
            f"config.stop.reference={given!r}: there is no {file}; give 'chance', a score "
            "from 0 to 1, or the workdir of a finished run."
        )
    results = json.loads(file.read_text())
    found = next((results[key] for key in SCORES if results.get(key)), {})
    scores = {g: found[g]["accuracy"] for g in groups if "accuracy" in found.get(g, {})}
    if lacking := [group for group in groups if group not in scores]:
        raise ValueError(
            f"config.stop.reference={given!r}: {file} has no accuracy of "
            f"{', '.join(lacking)}; evaluate that model with the same questions."
        )
    return scores


def point(
    step: int,
    scores: Mapping[str, float],
    roles: Mapping[str, str],
    references: Mapping[str, float],
    before: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The point of an evaluation.

    Args:
      scores: by group.
      roles: of each group; what has none is to be retained.
      references: of the groups to be unlearned.
      before: the scores at step 0; None is this one.
    """
    before = before or scores
    of = {
        role: [g for g in scores if roles.get(g, "") == role]
        for role in ("unlearn", "update")
    }
    rest = [g for g in scores if roles.get(g, "") in ("retain", "")]
    excess = [scores[g] - references.get(g, 0.0) for g in of["unlearn"]]
    found = {
        "step": step,
        "forget": max(map(abs, excess), default=0.0),
        "above": max(excess, default=0.0),
        "drop": _mean(before[g] - scores[g] for g in rest),
    }
    if of["update"]:
        found["update"] = _mean(scores[g] for g in of["update"])
    return found | {f"score_{group}": score for group, score in scores.items()}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else 0.0


def _goals(one: Point) -> tuple[float, ...]:
    """What goes down at a better point."""
    return one["forget"], one["drop"], -one.get("update", 0.0)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates; of equal ones the first."""

    def dominated(one: Point, place: int) -> bool:
        own = _goals(one)
        for i, other in enumerate(points):
            theirs = _goals(other)
            as_good = all(a <= b for a, b in zip(theirs, own, strict=True))
            if as_good and (theirs != own or i < place):
                return True
        return False

    return [one for place, one in enumerate(points) if not dominated(one, place)]


def why(rules: Stop, one: Point) -> str:
    """Why a run ends at a point, as the end of a sentence; "" where it goes on."""
    if not one["step"]:
        return ""
    if rules.reference and one["above"] <= 0:
        return "no group to be unlearned is above its reference"
    if rules.retention and one["drop"] > rules.retention:
        dropped, most = 100 * one["drop"], 100 * rules.retention
        return f"what is retained dropped by {dropped:.1f} points, more than {most:g}"
    return ""


def ranked(rules: Stop, points: Sequence[Point]) -> list[Point]:
    """The points after the first step, the one that is chosen first.

    Those come first whose retention has not dropped too far: the first of them at its
    reference, then the others by their distance to it. Of points that have dropped too far
    that is the first which has dropped least.
    """

    def key(one: Point) -> tuple[float, ...]:
        too_far = bool(rules.retention) and one["drop"] > rules.retention
        if too_far:
            return (1, 0, one["drop"], 0, one["step"])
        reached = bool(rules.reference) and one["above"] <= 0
        if reached:
            return (0, 0, 0, 0, one["step"])
        return (0, 1, one["forget"], -one.get("update", 0.0), one["step"])

    return sorted((one for one in points if one["step"]), key=key)


def verdict(rules: Stop, points: Sequence[Point]) -> str:
    """Which point is chosen, and why, in a sentence or two."""
    best, last = ranked(rules, points)[0], points[-1]
    if ended := why(rules, last):
        ended = f"The run ended at step {last['step']}: {ended}. "
    if rules.retention and best["drop"] > rules.retention:
        chosen = (
            f"retention dropped by more than {100 * rules.retention:g} points everywhere, "
            "and least at this one"
        )
    elif rules.reference and best["above"] <= 0:
        chosen = "the first point at the reference"
    else:
        chosen = (
            "no point came down to the reference, and it is the nearest one"
            if rules.reference
            else "of the points within the allowed drop it is nearest to the reference"
        )
    return (
        f"{ended}Step {best['step']} is exported: {chosen} "
        f"(the worst group to forget is {_points(best['above'])} from its reference, what "
        f"is retained moved by {_points(-best['drop'])})."
    )


def _points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share + 0.0:+.1f} points"


def described(
    rules: Stop, points: Sequence[Point], models: Iterable[int]
) -> dict[str, Any]:
    """What results.json holds as "stop".

    Args:
      points: of the whole run.
      models: steps whose models are kept.
    """
    kept, best = set(models), ranked(rules, points)[0]
    name = lambda one: {"model": folder_of(one["step"])} if one["step"] in kept else {}
    return {
        "why": verdict(rules, points),
        "chosen": dict(best) | name(best),
        "front": [dict(one) | name(one) for one in front(points)],
        "points": [dict(one) for one in points],
    }


def folder_of(step: float) -> str:
    """Where the model of a point is kept, in the workdir."""
    return f"front/step-{int(step)}"
