# SPDX-License-Identifier: Apache-2.0
"""Other slices and settings that are worth a try: each changes one thing."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax_surgery.plan import topologies
from jax_surgery.plan.settings import PlanSettings

REMAT = ("full", "context", "projections", "dots", "none")  # rising memory
PREFIX = "--config.surgery."


def replaced(settings: PlanSettings, path: str, value: Any) -> PlanSettings:
    """The settings with one field of `settings.surgery` changed.

    Args:
      settings: of the plan.
      path: "section.field", or the name of a field of the surgery itself.
      value: its new value.
    """
    section, _, field = path.rpartition(".")
    run = settings.surgery
    if section:
        inner = dataclasses.replace(getattr(run, section), **{field: value})
        run = dataclasses.replace(run, **{section: inner})
    else:
        run = dataclasses.replace(run, **{field: value})
    return dataclasses.replace(settings, surgery=run)


def _changes(settings: PlanSettings) -> Iterator[tuple[str, Any]]:
    """Fields of the surgery and the values to try, what costs least first."""
    run, is_step = settings.surgery, settings.program == "step"
    if is_step and run.optimizer.name in ("adamw", "muon"):
        if run.optimizer.moment_dtype == "float32":
            yield "optimizer.moment_dtype", "bfloat16"
        yield "optimizer.name", "adafactor"
    place = REMAT.index(run.compute.remat)
    for nearby in (place - 1, place + 1):
        if 0 <= nearby < len(REMAT):
            yield "compute.remat", REMAT[nearby]
    if run.compute.dtype == "float32":
        yield "compute.dtype", "bfloat16"
    if is_step and run.reference == "live":
        yield "reference", "cached"
    if run.data.context >= 1024:
        yield "data.context", run.data.context // 2


def neighbours(settings: PlanSettings) -> Iterator[tuple[str, PlanSettings]]:
    """The flags of each neighbour, and its settings."""
    where = topologies.find(settings.topology, settings.num_slices)
    for other in (where.smaller(), where.larger()):
        if other is not None:
            yield (
                f"--config.topology={other.name}",
                dataclasses.replace(settings, topology=other.name),
            )
    for path, value in _changes(settings):
        yield f"{PREFIX}{path}={value}", replaced(settings, path, value)
    if not settings.rows:
        return
    twice = dataclasses.replace(settings, rows=2 * settings.rows)
    yield f"--config.rows={2 * settings.rows}", twice
    if settings.rows % 2 == 0:
        half = dataclasses.replace(settings, rows=settings.rows // 2)
        accumulate = 2 * settings.surgery.accumulate
        flags = f"--config.rows={half.rows} {PREFIX}accumulate={accumulate}"
        yield flags, replaced(half, "accumulate", accumulate)
