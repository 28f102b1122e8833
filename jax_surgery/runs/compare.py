# SPDX-License-Identifier: Apache-2.0
"""Compares finished runs that were asked the same: their results.json -> one page."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from etils import epath

from jax_surgery.config import names
from jax_surgery.report import comparison, one_by_one, standing
from jax_surgery.report.comparison import Compared
from jax_surgery.report.standing import Evidence
from jax_surgery.train import identity
from jax_surgery.train.workdir import CONFIG_FILE, FINISHED_FILE

FIELD = "config.workdirs"
# What identity.json notes of what was asked.
ASKED = ("config.data.questions", "config.benchmark")


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """A comparison of runs (`run = "compare"`)."""

    run: str
    workdirs: str  # of finished runs, comma-separated


def run(settings: CompareSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError: a workdir is not there.
      ValueError: fewer than two, one that is not finished, or runs that cannot be
        compared.
    """
    workdirs = [path.rstrip("/") for path in names(settings.workdirs)]
    if len(workdirs) < 2:
        raise ValueError(
            f"{FIELD}={settings.workdirs!r} names {len(workdirs)} runs; give two or "
            "more, e.g. runs/a,runs/b."
        )
    if twice := [path for path, count in Counter(workdirs).items() if count > 1]:
        raise ValueError(f"{FIELD} names {twice[0]} twice; name each run once.")
    runs = [
        Compared(name, path, results, standing.evidence(results), one_by_one.read(path))
        for name, path in zip(short_names(workdirs), workdirs, strict=True)
        for results in [read(path)]
    ]
    role = compared_role(runs)
    for one in runs[1:]:
        check_asked_the_same(runs[0], one, (role, "retain"))
    return comparison.write(directory, runs, role, dataclasses.asdict(settings))


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    parts = [path.split("/") for path in paths]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        found = ["/".join(own[-length:]) for own in parts]
        if len(set(found)) == len(found):
            return found
    return list(paths)


def read(workdir: str) -> dict[str, Any]:
    """results.json of a finished run.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds no run, one that is not finished, or one without scores.
    """
    folder = epath.Path(workdir)
    if not folder.exists():
        raise FileNotFoundError(
            f"{FIELD} names {workdir}, which does not exist; give workdirs of finished "
            "runs."
        )
    if not (folder / FINISHED_FILE).exists():
        if not (folder / CONFIG_FILE).exists():
            raise ValueError(
                f"{FIELD} names {workdir}, which holds no run; give the --workdir of one."
            )
        raise ValueError(
            f"{FIELD} names {workdir}, whose run is not finished: it goes on when it is "
            "started with that --workdir again. Leave it out until then."
        )
    try:
        kind = json.loads((folder / FINISHED_FILE).read_bytes())["run"]
        there = (folder / "results.json").exists()
        results = json.loads((folder / "results.json").read_bytes()) if there else {}
        has_scores = bool(standing.evidence(results))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{FIELD} names {workdir}, whose results.json or {FINISHED_FILE} is damaged "
            f"({error!r}). Run it again in another --workdir, or leave it out."
        ) from error
    if not has_scores:
        raise ValueError(
            f"{FIELD} names {workdir}, a run {kind!r} whose results.json has no scores "
            "of groups with a role, before and after. Compare runs of surgery, unlearn "
            "or learn that asked questions (config.data.questions, config.benchmark or "
            "config.free_form)."
        )
    return results


def compared_role(runs: Sequence[Compared]) -> str:
    """What is drawn over what is retained: "unlearn", or "update" of runs that only learn.

    Raises:
      ValueError: not all runs measured it.
    """
    lacking: dict[str, list[str]] = {}
    for role in ("unlearn", "update", "retain"):
        lacking[role] = [run.name for run in runs if run.done(role) is None]
    none_forgot = len(lacking["unlearn"]) == len(runs)
    role = "update" if none_forgot and not lacking["update"] else "unlearn"
    for needed, what in ((role, "forgotten or learned"), ("retain", "retained")):
        if without := lacking[needed]:
            raise ValueError(
                f"{FIELD}: {', '.join(without)} did not measure, before and after, how "
                f"much is {what}. Leave them out, or run them again with questions "
                "about it."
            )
    return role


def check_asked_the_same(one: Compared, other: Compared, roles: Sequence[str]) -> None:
    """Raises ValueError where two runs were asked different things about some roles."""
    for role in roles:
        ours, theirs = (_asked(of.evidence, role) for of in (one, other))
        if odd := sorted(set(ours) ^ set(theirs)):
            group, kind, count = max(odd)
            has, lacks = (one, other) if max(odd) in ours else (other, one)
            number = f"{count:,} " if count else ""
            raise ValueError(
                f"{FIELD}: {one.name} and {other.name} cannot be compared: {has.name} "
                f"has {number}answers about {group!r} ({kind}), and {lacks.name} has "
                "not the same. Compare runs that were asked the same questions."
            )
    ours, theirs = (identity.noted(epath.Path(of.workdir)) for of in (one, other))
    for field in sorted(ours.keys() & theirs.keys()):
        asked = field in ASKED or field.startswith("the task ")
        if asked and ours[field] != theirs[field]:
            raise ValueError(
                f"{FIELD}: {one.name} and {other.name} cannot be compared: {field} held "
                "other content in the two. Compare runs that were asked the same "
                "questions."
            )


def _asked(found: Sequence[Evidence], role: str) -> list[tuple[str, str, int]]:
    """Group, kind and number of answers of what is compared; of answers that a model gave
    before the number is the model's."""
    own = [one for one in found if one.role == role]
    own = [one for one in own if one.kind == own[0].kind]
    return [(e.group, e.kind, 0 if e.kind == "kept" else e.after.n) for e in own]
