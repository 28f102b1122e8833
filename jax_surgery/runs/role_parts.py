# SPDX-License-Identifier: Apache-2.0
"""Parts of a run on texts by role: the groups of its benchmark, and its scores by group."""

import dataclasses
from typing import Any

from jax_surgery.data.groups import Group
from jax_surgery.data.roles import RoleData

# What results.json calls metrics otherwise.
KEYS = {"answer_probability": "probability"}


def with_groups(data: RoleData, groups: tuple[Group, ...]) -> RoleData:
    """The data, with a benchmark's groups as the text of roles that have no sources."""
    sources: dict[str, Any] = {
        role: given or ",".join(g.data for g in groups if g.role == role)
        for role, given in data.sources.items()
    }
    return dataclasses.replace(data, **sources)


def by_group(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By group the accuracies of its questions and the metrics of its probe."""
    groups = {name: dict(entry) for name, entry in found["groups"].items()}
    for name, measured in found["metrics"].items():
        entry = groups.setdefault(name, {})
        for metric, estimate in measured.items():
            key = KEYS.get(metric, metric)
            entry |= {"n": estimate["n"], key: estimate["value"]}
            entry[f"{key}_interval"] = list(estimate["interval"])
            entry[f"{key}_reference"] = estimate["reference"]
            entry[f"{key}_protocol"] = estimate["protocol"]
    return groups
