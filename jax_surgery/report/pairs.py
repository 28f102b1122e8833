# SPDX-License-Identifier: Apache-2.0
"""Runs compared in pairs: on the same questions, and over the same seeds.

Runs whose configs differ in seeds alone are one method. Two methods are compared on each
question that both were asked, which is the mean over a method's seeds (does it hold for other
questions?), and where they share seeds over these (does it hold for other seeds?).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax.traverse_util import flatten_dict

from jax_surgery.metrics import paired
from jax_surgery.report import standing
from jax_surgery.report.one_by_one import Answers
from jax_surgery.report.standing import Evidence

SEED = "seed"  # the last part of the name of a field that is one
OF_KIND = {"questions": "multiple_choice"}  # the metric of a kind of evidence
BETTER = {"unlearn": "lower", "update": "higher", "retain": "higher"}


class Run(Protocol):
    """What is read of a finished run (see `comparison.Compared`)."""

    @property
    def name(self) -> str: ...
    @property
    def results(self) -> Mapping[str, Any]: ...
    @property
    def evidence(self) -> Sequence[Evidence]: ...
    @property
    def answers(self) -> Answers: ...
    def done(self, role: str) -> float | None: ...


class Method(NamedTuple):
    """Runs whose configs differ in their seeds alone.

    Attributes:
      name: short, and no other method's.
      runs: by their seeds.
    """

    name: str
    runs: dict[Any, Run]

    def told(self, roles: Mapping[str, str]) -> dict[str, Any]:
        """Its runs, and of each role the mean over seeds of how much is done.

        Args:
          roles: what is done of each, by role.
        """
        found: dict[str, Any] = {"runs": [run.name for run in self.runs.values()]}
        for role, what in roles.items():
            values = [run.done(role) for run in self.runs.values()]
            mean, interval = paired.mean_of_seeds([v for v in values if v is not None])
            found |= {what: mean, f"{what}_interval": interval, "n": len(values)}
        return found


def methods_of(runs: Sequence[Run]) -> list[Method]:
    """The runs by method, in the order of their first runs."""
    groups: dict[Any, list[tuple[Any, Run]]] = {}
    for run in runs:
        fields = flatten_dict(dict(run.results.get("settings", {})))
        own = {k: repr(v) for k, v in fields.items() if k[-1] != SEED}
        seeds = tuple(repr(v) for k, v in sorted(fields.items()) if k[-1] == SEED)
        groups.setdefault(frozenset(own.items()), []).append((seeds, run))
    found: list[list[tuple[Any, Run]]] = []
    for members in groups.values():
        apart = len(dict(members)) == len(members)
        # Runs of one seed are no repetitions that could be averaged.
        found += [members] if apart else [[one] for one in members]
    names = _names([[run.name for _, run in members] for members in found])
    return [Method(n, dict(m)) for n, m in zip(names, found, strict=True)]


def _names(groups: Sequence[Sequence[str]]) -> list[str]:
    """What the names of each method's runs begin with; all of them where that is nothing,
    or another method's too."""
    starts = [
        names[0] if len(names) == 1 else os.path.commonprefix(names).rstrip("_-/. ")
        for names in groups
    ]
    return [
        start if start and starts.count(start) == 1 else "+".join(names)
        for start, names in zip(starts, groups, strict=True)
    ]


def _values(method: Method, role: str) -> dict[tuple[str, str], tuple[float, str]]:
    """Of each question of a role, by group and id, the mean over seeds and what it is
    about."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for run in method.runs.values():
        pooled = standing.pooled(run.evidence, role)
        if not pooled:
            continue
        metric = OF_KIND.get(pooled.kind, pooled.kind)
        own = {o.group for o in run.evidence if (o.role, o.kind) == (role, pooled.kind)}
        for (group, of, name), answer in run.answers.items():
            # A task has one metric, that of its scorer.
            if group in own and (of == metric or pooled.kind == standing.TASKS):
                found.setdefault((group, name), []).append(answer)
    return {
        key: (float(np.mean([value for value, _ in own])), own[0][1])
        for key, own in found.items()
        if len(own) == len(method.runs)
    }


def tests(methods: Sequence[Method], roles: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair of methods, on the questions of each role and over seeds.

    Returns:
      [{"one", "other": names, "role", "better": which way, "over": "questions" or "seeds",
      "difference" (of scores, or of how much is done), "interval", "p", "p_holm": of all
      tests of the same kind, "n"}].
    """
    found: list[dict[str, Any]] = []
    for role in roles:
        for one, other in combinations(methods, 2):
            of = {"one": one.name, "other": other.name, "role": role}
            ours, theirs = _values(one, role), _values(other, role)
            if both := [key for key in ours if key in theirs]:
                result = paired.of_things(
                    [ours[key][0] for key in both],
                    [theirs[key][0] for key in both],
                    [(key[0], ours[key][1]) for key in both],
                )
                how = {"over": "questions", "better": BETTER[role]}
                found.append(of | how | dataclasses.asdict(result))
            seeds = [seed for seed in one.runs if seed in other.runs]
            if len(seeds) >= paired.LEAST_SEEDS:
                done = [[_done(m.runs[s], role) for s in seeds] for m in (one, other)]
                how = {"over": "seeds", "better": "higher"}
                found.append(of | how | dataclasses.asdict(paired.of_seeds(*done)))
    for over in ("questions", "seeds"):
        own = [test for test in found if test["over"] == over]
        adjusted = paired.holm([test["p"] for test in own])
        for test, p in zip(own, adjusted, strict=True):
            test["p_holm"] = p
    return found


def _done(run: Run, role: str) -> float:
    value = run.done(role)
    assert value is not None, "the run of the comparison checks it"
    return value


def line(test: Mapping[str, Any]) -> str:
    """A test in a sentence."""
    low, high = (100 * end for end in test["interval"])
    what = {"unlearn": "what is to be forgotten", "update": "what is new"}
    about = what.get(test["role"], "what is retained")
    n = f"{test['n']:,} {'people, facts or texts' if test['over'] == 'questions' else 'seeds'}"
    return (
        f"{test['one']} less {test['other']}, {about}: {100 * test['difference']:+.1f} "
        f"points [{low:+.1f}, {high:+.1f}], p = {test['p']:.2g}, {test['p_holm']:.2g} for "
        f"all tests together (over {n}; {test['better']} is better)"
    )
