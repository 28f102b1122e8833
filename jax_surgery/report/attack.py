# SPDX-License-Identifier: Apache-2.0
"""Writes the results of an attack: results.json, the report page, the printed table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax_surgery.report import page, table, writer
from jax_surgery.report.attack_pictures import Point, figures, metrics_of, value_of

Results = Mapping[str, Any]


def sentence(found: dict[str, Any]) -> str:
    """The verdict as a sentence; "" where there is none."""
    return f"What was to go is {found['verdict']}: {found['why']}." if found else ""


def with_attacks(shown: page.Page, found: Results) -> page.Page:
    """A run's page that begins with the verdict of its own attacks, and shows them.

    Args:
      found: "verdict", "attacks" and "excess", as results.json holds them.
    """
    said = sentence(found["verdict"])
    figs = [*shown.get("figures", ()), *figures(found["attacks"])]
    first = [said] if said else []
    headlines = [*first, *shown.get("headlines", ())]
    own = page.Page(headlines=headlines, figures=figs, attacks=excess_rows(found))
    return page.Page(**shown | own)


def excess_rows(found: Results) -> list[page.AttackRow]:
    """What each family of attacks brings back of each group, at the try that brings back
    most."""
    rows = []
    for one in found.get("excess", ()):
        where = one["label"] or _cell(one)
        rows.append(
            page.AttackRow(
                attack=one["family"],
                where=where,
                tries=one["tries"],
                group=one["group"],
                metric=table.LABELS.get(one["metric"], one["metric"].replace("_", " ")),
                before="" if one["before"] is None else table.percent(one["before"]),
                after=table.percent(one["value"]),
                never=table.percent(one["reference"]),
                by_chance=one["by_chance"],
                above=f"{100 * one['above']:+.1f}",
                robustness=(
                    "" if one["robustness"] is None else f"{one['robustness']:.2f}"
                ),
                count=one["n"],
            )
        )
    return rows


def _cell(one: Results) -> str:
    """Which try of a family that trains: its options where the family has several, and
    after how many steps."""
    own = (
        f"{one['attack'].partition(':')[2]}, " if one["attack"] != one["family"] else ""
    )
    return f"{own}after {one['steps']} steps"


def _sentences(rows: Sequence[page.AttackRow]) -> list[str]:
    """The rows in words, for the terminal."""
    return [
        f"{row['attack']}, worst of {row['tries']}, {row['where']}: {row['after']} of "
        f"{row['count']:,} about {row['group']!r} ({row['metric']}), {row['never']} "
        f"{'by chance' if row['by_chance'] else 'of a model that never knew'}: "
        f"{row['above']} points"
        for row in rows
    ]


def _rows(attacks: Sequence[Results]) -> list[table.Row]:
    """Before the attacks of a family and where values are highest after them, of the model
    and of one that never knew."""
    families: dict[str, list[Results]] = {}
    for attack in attacks:
        families.setdefault(attack["family"], []).append(attack)
    found = []
    for family, own in families.items():
        for key, of in (
            ("curve", "the model"),
            ("reference_curve", "a model that never knew"),
        ):
            curves = [attack[key] for attack in own if attack[key]]
            first = [points[0] for points in curves[:1]]
            for metric in metrics_of(first):
                for group in first[0]["groups"]:
                    found += _row(curves, group, metric, f"of {of}", family)
    return found


def _row(
    curves: Sequence[list[Point]], group: str, metric: str, of: str, family: str
) -> list[table.Row]:
    """One row; [] of a metric that is not measured of the group."""
    tried = [point for points in curves for point in points[1:]] or curves[0]
    tried = [p for p in tried if value_of(p, group, metric) is not None]
    if value_of(curves[0][0], group, metric) is None or not tried:
        return []
    worst = max(tried, key=lambda point: value_of(point, group, metric) or 0.0)
    old, new = (
        {group: {metric: point["groups"][group][metric]}}
        for point in (curves[0][0], worst)
    )
    how = worst["label"] or f"{family}, {worst['steps']} steps"
    return [
        dataclasses.replace(row, name=f"{row.name}, {of}, {how}")
        for row in table.metric_rows(old, new)
    ]


def shown(results: Results, settings: dict[str, Any]) -> page.Page:
    """The page of an attack run, which may not have come to its end.

    Args:
      results: see `runs.attack.run`.
      settings: the exact config.
    """
    costs = [
        f"{attack['attack']}: {own['steps']} steps, {own['tokens']:,} tokens, "
        f"{own['flops']:.3g} FLOPs"
        for attack in results["attacks"]
        for own in [attack["spent"]]
    ]
    said, spent = sentence(results["verdict"]), "; ".join(costs)
    rows = excess_rows(results)
    headlines = [said] if said else []
    return page.Page(
        title="Attack",
        subtitle=f"on {results['model']} with {results['shown']} records; {spent}",
        headlines=[*headlines, *results["left_out"]],
        sentences=[*_sentences(rows), f"spent: {spent}"],
        attacks=rows,
        rows=_rows(results["attacks"]),
        intervals="95 %, see the metrics",
        figures=figures(results["attacks"]),
        settings=settings,
    )


def write(directory: str, results: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes results.json and report/index.html, and prints the table, on the lead
    process; see `shown`."""
    writer.write(directory, results, shown(results, settings))
