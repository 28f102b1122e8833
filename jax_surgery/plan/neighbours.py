# SPDX-License-Identifier: Apache-2.0
"""Other slices and settings that are worth a try: each changes one thing."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jax_surgery.plan import topologies
from jax_surgery.plan.settings import PlanSettings

REMAT = ("full", "context", "projections", "dots", "none")  # rising memory
Changes = dict[str, Any]  # new values by their path, "surgery.optimizer.name"


def changed(settings: PlanSettings, changes: Mapping[str, Any]) -> PlanSettings:
    """The settings of a plan with some fields changed, by their path."""

    def replaced(section: Any, path: str, value: Any) -> Any:
        name, _, rest = path.partition(".")
        inner = replaced(getattr(section, name), rest, value) if rest else value
        return dataclasses.replace(section, **{name: inner})

    for path, value in changes.items():
        settings = replaced(settings, path, value)
    return settings


def _changes(settings: PlanSettings) -> Iterator[Changes]:
    """What to change: the slice, fields of the surgery, and rows."""
    where = topologies.find(settings.topology, settings.num_slices)
    for other in (where.smaller(), where.larger()):
        if other is not None:
            yield {"topology": other.name}
    run, is_step = settings.surgery, settings.program == "step"
    if is_step and run.optimizer.name in ("adamw", "muon"):
        if run.optimizer.moment_dtype == "float32":
            yield {"surgery.optimizer.moment_dtype": "bfloat16"}
        yield {"surgery.optimizer.name": "adafactor"}
    place = REMAT.index(run.compute.remat)
    for nearby in (place - 1, place + 1):
        if 0 <= nearby < len(REMAT):
            yield {"surgery.compute.remat": REMAT[nearby]}
    if run.compute.dtype == "float32":
        yield {"surgery.compute.dtype": "bfloat16"}
    if is_step and run.reference == "live":
        yield {"surgery.reference": "cached"}
    if run.data.context >= 1024:
        yield {"surgery.data.context": run.data.context // 2}
    rows = settings.rows
    if rows:
        yield {"rows": 2 * rows}
    if rows and rows % 2 == 0:
        yield {"rows": rows // 2, "surgery.accumulate": 2 * run.accumulate}


def neighbours(settings: PlanSettings) -> Iterator[tuple[str, PlanSettings]]:
    """The flags of each neighbour, and its settings."""
    for changes in _changes(settings):
        flags = [f"--config.{path}={value}" for path, value in changes.items()]
        yield " ".join(flags), changed(settings, changes)
