# SPDX-License-Identifier: Apache-2.0
"""How far a run came with each role of text, as results.json says it.

Every run notes its scores in its own way (`runs.by_roles`, `runs.by_tasks`,
`runs.evaluate`); here they are one list of shares, before and after, with the role of what
was asked. What has no share, or no known role, is not in the list.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_surgery import metrics

Results = Mapping[str, Any]


class Share(NamedTuple):
    """A share of so many answers, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def right(self) -> int:
        """How many answers that is."""
        return round(self.value * self.n)


ALL = 1.0  # of what a model knew before
TASKS = "tasks"  # the kind of the scores of tasks


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a group of one role scored.

    Attributes:
      role: "unlearn", "update" or "retain".
      group: its name.
      kind: of the scores; those of one kind are shares of the same thing.
      says: the score in words, with {value}, {count} and {n}.
      before: None where the run measures one model.
      after: of the finished model.
      chance: what a model scores that does not know the answers; None: not known.
    """

    role: str
    group: str
    kind: str
    says: str
    before: Share | None
    after: Share
    chance: float | None

    @property
    def done(self) -> float | None:
        """The share that is done of what is asked of the role: of what was known beyond
        chance that is gone (unlearn) or still there (retain), of what was not known that
        is learned (update). None without a model before, or with nothing to do."""
        return self._done(self.after.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of `done`: that of the score after the run."""
        ends = [self._done(end) for end in (self.after.low, self.after.high)]
        found = [end for end in ends if end is not None]
        return (min(found), max(found)) if found else None

    def _done(self, after: float) -> float | None:
        if self.before is None:
            return None
        before, chance = self.before.value, self.chance or 0.0
        if self.role == "update":
            return (after - before) / (1 - before) if before < 1 else None
        if before <= chance:
            return None
        kept = (after - chance) / (before - chance)
        return 1 - kept if self.role == "unlearn" else kept

    def told(self, share: Share) -> str:
        """A share in words."""
        value = f"{100 * share.value:.1f} %"
        return self.says.format(value=value, count=share.right, n=f"{share.n:,}")


def evidence(results: Results) -> list[Evidence]:
    """What results.json of a run says of each group."""
    return [
        *_of_groups(results),
        *_of_tasks(results.get("tasks", {})),
        *_of_replies(results.get("free_form", {})),
    ]


def _share(entry: Mapping[str, Any], value: str, interval: str) -> Share:
    low, high = entry[interval]
    return Share(entry[value], low, high, entry["n"])


def _of_groups(results: Results) -> list[Evidence]:
    """Of questions and metrics, of a run or of an evaluation."""
    roles, found = results.get("group_roles", {}), []
    if "evaluation" in results:
        before, after = {}, {k: dict(v) for k, v in results["evaluation"].items()}
        for group, scores in results.get("metrics", {}).items():
            entry = after.setdefault(group, {})
            for name, score in scores.items():
                entry |= {"n": score["n"], name: score["value"]}
                entry[f"{name}_interval"] = score["interval"]
                entry[f"{name}_reference"] = score["reference"]
    else:
        before, after = results.get("before", {}), results.get("after", {})
    for group, new in after.items():
        role, old = roles.get(group, ""), before.get(group)
        if not role:
            continue
        if "accuracy" in new:
            keys = ("accuracy", "interval")
            says = "{value} of {n} answers right"
            ends = (old and _share(old, *keys), _share(new, *keys))
            of = (role, group, "questions", says)
            found.append(Evidence(*of, *ends, new["chance"]))
        for name, metric in metrics.METRICS.items():
            known = (metric.unit, metric.direction) == ("share", "knows")
            if name in new and known:
                keys, says = (name, f"{name}_interval"), name.replace("_", " ")
                ends = (old and _share(old, *keys), _share(new, *keys))
                of = (role, group, name, f"{says} {{value}}")
                found.append(Evidence(*of, *ends, new.get(f"{name}_reference")))
    return found


def _of_tasks(tasks: Results) -> list[Evidence]:
    """Of runs on a tasks file. What was not known before has no role in them."""
    found = []
    for name, task in tasks.items():
        role = {"similar": "retain", "other": "retain"}.get(task["role"], "")
        if task["role"] == "target":
            role = "update" if task["goal"] == "up" else "unlearn"
        if role:
            old, new = (
                _share(task[end], "value", "interval") for end in ("before", "after")
            )
            of = (role, name, TASKS, "a score of {value}")
            found.append(Evidence(*of, old, new, task["after"]["chance"]))
    return found


def _of_replies(found: Results) -> list[Evidence]:
    """Of what a model says by itself: facts of the user, and answers that it knew."""
    told = []
    for role, facts in found.get("facts", {}).items():
        if n := facts["n"]:
            # All facts are asked: these are no samples, and have no intervals.
            old, new = (
                Share(x, x, x, n) for x in (facts["before"] / n, facts["after"] / n)
            )
            of = (role, f"facts to {role}", "facts", "{count} of {n} facts said")
            told.append(Evidence(*of, old, new, 0.0))
    for name, entry in found.get("groups", {}).items():
        if entry["kind"] == "unlearn" and "choice" in entry["after"]:
            old, new = (
                _share(entry[end]["choice"], "share", "interval")
                for end in ("before", "after")
            )
            says = "the answer is the likeliest in {count} of {n} questions"
            chance = entry["after"]["choice"]["chance"]
            told.append(Evidence("unlearn", name, "choice", says, old, new, chance))
    for name, entry in found.get("kept", {}).items():
        new = _share(entry, "share", "interval")
        says = "{count} of {n} answers that it gave are kept"
        old = Share(ALL, ALL, ALL, new.n)
        told.append(Evidence("retain", name, "kept", says, old, new, 0.0))
    return told


def pooled(found: Sequence[Evidence], role: str) -> Evidence | None:
    """All answers of a role's groups together, of the first kind that it has; None
    without any.

    Groups are independent: the distances from a value to the ends of its interval add as
    squares.
    """
    own = [one for one in found if one.role == role]
    if not own:
        return None
    own = [one for one in own if one.kind == own[0].kind]
    first, names = own[0], ", ".join(one.group for one in own)
    befores = [one.before for one in own if one.before is not None]
    whole = lambda shares: _together(shares) if len(shares) == len(own) else None
    chances = [one.chance for one in own]
    total = sum(one.after.n for one in own)
    chance = None
    if None not in chances:
        chance = sum((one.chance or 0.0) * one.after.n for one in own) / total
    after = _together([one.after for one in own])
    return dataclasses.replace(
        first, group=names, before=whole(befores), after=after, chance=chance
    )


def _together(shares: Sequence[Share]) -> Share:
    total = sum(share.n for share in shares)
    value = sum(share.n * share.value for share in shares) / total
    below = math.hypot(*(s.n * (s.value - s.low) for s in shares)) / total
    above = math.hypot(*(s.n * (s.high - s.value) for s in shares)) / total
    return Share(value, value - below, value + above, total)
