# SPDX-License-Identifier: Apache-2.0
"""What a training step needs on a TPU slice, before the slice is rented.

The story: architecture and slice -> the real step, compiled for the slice -> memory
against what a chip has, operations, collectives, bounds of speed -> other settings and
slices, of which memory alone is asked -> a table, a picture, results.json.
"""

import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models import llama
from jax_surgery.models.config import ModelConfig
from jax_surgery.plan import lowering, report, topologies
from jax_surgery.plan import subspace as subspace_plan
from jax_surgery.plan.compiled import buffers, dump, schedule
from jax_surgery.plan.settings import PlanSettings

PROGRAM = "jit_step"
TIMEOUT = 600  # seconds that a memory report may take


def group_of(path: str) -> str:
    """What an argument of the step is for, by its path."""
    if path.startswith("state.opt_state"):
        return "optimizer"
    if path.startswith("state"):
        return "parameters"
    return "reference" if "reference" in path else "batch"


def memory_of(memory: buffers.Memory) -> dict[str, int]:
    """Bytes a chip by what they are for; they add up to `total`."""
    parts = dict.fromkeys(("parameters", "optimizer", "reference", "batch"), 0)
    for name, size in memory.arguments_by(group_of).items():
        parts[name] += size
    parts["temporaries"] = memory.temporaries + memory.outputs + memory.constants
    return parts | {"total": memory.total}


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


def neighbours(settings: PlanSettings) -> Iterator[tuple[str, PlanSettings]]:
    """Other slices and settings that are worth a try, with the flags that ask them."""
    where = topologies.find(settings.topology, settings.num_slices)
    for other in (where.smaller(), where.larger()):
        if other is not None:
            yield (
                f"--config.topology={other.name}",
                dataclasses.replace(settings, topology=other.name),
            )
    run: SurgerySettings = settings.surgery
    prefix = "--config.surgery."
    changes: list[tuple[str, Any]] = []
    if run.optimizer.name in ("adamw", "muon"):
        if run.optimizer.moment_dtype == "float32":
            changes.append(("optimizer.moment_dtype", "bfloat16"))
        changes.append(("optimizer.name", "adafactor"))
    kinds = ("full", "context", "projections", "dots", "none")  # rising memory
    place = kinds.index(run.compute.remat)
    for nearby in (place - 1, place + 1):
        if 0 <= nearby < len(kinds):
            changes.append(("compute.remat", kinds[nearby]))
    if run.compute.dtype == "float32":
        changes.append(("compute.dtype", "bfloat16"))
    if run.reference == "live":
        changes.append(("reference", "cached"))
    if run.data.context >= 1024:
        changes.append(("data.context", run.data.context // 2))
    for path, value in changes:
        yield f"{prefix}{path}={value}", replaced(settings, path, value)
    if settings.rows:
        twice = dataclasses.replace(settings, rows=2 * settings.rows)
        yield f"--config.rows={2 * settings.rows}", twice
        if settings.rows % 2 == 0:
            half = replaced(
                dataclasses.replace(settings, rows=settings.rows // 2),
                "accumulate",
                2 * run.accumulate,
            )
            flags = f"--config.rows={settings.rows // 2} {prefix}accumulate="
            yield f"{flags}{2 * run.accumulate}", half


def does_not_fit(error: dump.DoesNotFit) -> dict[str, Any]:
    """What is known of a step that the compiler refuses."""
    return {"needs": int(error.needed), "fits": False, "memory": None}


def fits(memory: buffers.Memory, program: schedule.Schedule) -> dict[str, Any]:
    """Memory and traffic of a step that fits.

    Args:
      memory: of one chip.
      program: the compiled step, as far as it was compiled.
    """
    return {
        "needs": memory.total,
        "fits": True,
        "memory": memory_of(memory),
        "collectives": program.bytes_by_kind(),
        "kernel_calls": program.kernel_calls(),
    }


def ask_memory(settings: PlanSettings) -> dict[str, Any]:
    """Memory alone: the compiler is stopped as soon as it has assigned buffers.

    Returns:
      {"needs": bytes a chip, "fits", "memory": see `memory_of`, None if it does not,
      and where it does "collectives": bytes by kind, "kernel_calls": by kernel}.

    Raises:
      ValueError: a step that does not divide over the slice.
      RuntimeError, TimeoutError: see `dump.watch`.
    """
    # What does not divide is found here, with its own message.
    config = lowering.architecture_of(settings.model)
    with jax.set_mesh(lowering.mesh_of(settings)):
        lowering.devices.parameter_shardings(config)
    with tempfile.TemporaryDirectory() as folder:
        command = lowering.write(settings, pathlib.Path(folder, "settings.json"))
        try:
            memory, program = dump.watch(command, PROGRAM, TIMEOUT)
        except dump.DoesNotFit as error:
            return does_not_fit(error)
    return fits(memory, program)


def try_neighbours(settings: PlanSettings) -> list[dict[str, Any]]:
    """Memory of every neighbour, shown as it comes."""
    found = []
    for flags, other in neighbours(settings):
        where = topologies.find(other.topology, other.num_slices)
        try:
            asked = ask_memory(other)
        except ValueError as error:
            asked = {"needs": None, "fits": False, "memory": None, "why": str(error)}
        asked |= {"flags": flags, "has": where.hbm_bytes, "chips": where.chips}
        print(report.neighbour_line(asked), flush=True)
        found.append(asked)
    return found


def speed(
    program: schedule.Schedule,
    where: topologies.Slice,
    config: ModelConfig,
    settings: PlanSettings,
    rows: RoleRows,
) -> dict[str, Any]:
    """Operations, collectives and bounds of a step, from its compiled schedule."""
    context = settings.surgery.data.context
    tokens = rows.total * context
    useful = report.model_flops(config, tokens, context)
    kernels = report.kernel_flops(config, tokens, context, settings.surgery.compute)
    seconds = where.seconds(program.cycles)
    return {
        "tokens": tokens,
        "chips": where.chips,
        "model_flops": useful,
        "product_flops_a_chip": program.flops,
        "kernel_flops_a_chip": kernels / where.chips,
        "seconds_at_least": seconds,
        "ideal_seconds": useful / where.peak_flops,
        "tokens_per_second_at_most": tokens / seconds,
        "mfu_at_most": useful / (seconds * where.peak_flops),
        "cycles_by_category": program.cycles_by_category(),
        "cycles_by_scope": program.cycles_by_scope(3),
        "clock_is_certain": where.generation.clock_is_certain,
        "unknown_loops": list(program.unknown_loops),
    }


def compile_whole(settings: PlanSettings, config: ModelConfig) -> dict[str, Any]:
    """Compiles the step to its end: memory and schedule."""
    where = topologies.find(settings.topology, settings.num_slices)
    lowered, rows = lowering.lower(settings, config, lowering.mesh_of(settings))
    began = time.perf_counter()
    print("compiling the step; 1 to 5 minutes on 2 cores", flush=True)
    try:
        _, memory, program = dump.compile_step(lowered)
    except dump.DoesNotFit as error:
        return does_not_fit(error)
    return fits(memory, program) | {
        "speed": speed(program, where, config, settings, rows),
        "compile_seconds": time.perf_counter() - began,
    }


def run(settings: PlanSettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; returns what results.json holds.

    With `settings.program` = "subspace" the story is `subspace_plan`'s.

    Raises:
      FileNotFoundError, ValueError: no such architecture or slice, or something that
        does not divide over it.
      RuntimeError: libtpu is not installed, or the compiler failed.
    """
    if settings.program == "subspace":
        return subspace_plan.run(settings, directory)
    config = lowering.architecture_of(settings.model)
    where = topologies.find(settings.topology, settings.num_slices)
    mesh = lowering.mesh_of(settings)
    with jax.set_mesh(mesh):
        rows = lowering.rows_of(settings)
    print(report.headline(settings, config, where, dict(mesh.shape), rows))
    result = ask_memory(settings) if settings.fast else compile_whole(settings, config)
    results = {
        "model": settings.model,
        "parameters": llama.parameter_count(config),
        "topology": settings.topology,
        "num_slices": settings.num_slices,
        "chips": where.chips,
        "has": where.hbm_bytes,
        "mesh": dict(mesh.shape),
        "rows": dataclasses.asdict(rows),
    } | result
    print(report.as_text(results))
    wanted = settings.neighbours == "yes" or (
        settings.neighbours == "auto" and not (settings.fast and result["fits"])
    )
    results["neighbours"] = []
    if wanted:
        print("\nother settings and slices, memory alone:")
        results["neighbours"] = try_neighbours(settings)
    print("\n" + report.advice(results))
    folder = epath.Path(directory)
    results["settings"] = dataclasses.asdict(settings)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "memory.png").write_bytes(report.picture(results))
    print(f"results and picture in {folder}")
    return results
