# SPDX-License-Identifier: Apache-2.0
"""What a subspace removal needs on a TPU slice, before the slice is rented.

The story: architecture and slice -> its four programs, each compiled for the slice ->
memory against what a chip has, operations, collectives, bounds of speed -> results.json.
"""

import dataclasses
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
from etils import epath

from jax_surgery.models import flops, layout, llama, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.linalg import svd as linalg
from jax_surgery.plan import lowering, subspace_lowering, topologies
from jax_surgery.plan import subspace_report as report
from jax_surgery.plan.compiled import buffers, dump
from jax_surgery.plan.settings import PlanSettings

TIMEOUT = 600  # seconds that a memory report may take


def group_of(path: str) -> str:
    """What an argument of a program is for, by its path."""
    if path.startswith(("params", "state.params")):
        return "parameters"
    if path.startswith(("moments", "state.kept")):
        return "kept tasks"
    return "change" if path.startswith("change") else "batch"


def memory_of(memory: buffers.Memory, parameters: int) -> dict[str, int]:
    """Bytes a chip by what they are for; they add up to `total`.

    Args:
      memory: of a program.
      parameters: bytes of the model on a chip, where it also lies while a program that
        does not take it runs.
    """
    parts = {"parameters": parameters} | memory.arguments_by(group_of)
    parts["temporaries"] = memory.temporaries + memory.outputs + memory.constants
    return parts | {"total": sum(parts.values())}


def counted_flops(
    name: str, settings: PlanSettings, config: ModelConfig, rows: int
) -> float:
    """FLOPs of a program on all chips, counted from shapes (see `model.flops`).

    moments  a forward pass without the head, and 2 d^2 a token, layer and input
    ridge    2 d^3 of each layer and input
    round    a forward and a backward pass, without recomputation, and two triangular
             solves, of 2 inputs^2 outputs each
    factors  six products of every matrix with its sketch of 80 columns

    Args:
      name: of `subspace_lowering.PROGRAMS`.
      rows: of a batch.
    """
    trainable = subspace_lowering.trainable_of(settings, config)
    widths = layout.statistics(config, trainable.matrices)
    layers = config.num_layers - trainable.first_layer
    context = settings.surgery.data.context
    size = rows * context, context
    if name == "moments":
        return flops.moments_flops(config, *size, widths, layers)
    if name == "ridge":
        return flops.cholesky_flops(widths, layers)
    if name == "round":
        solves = flops.solve_flops(config, trainable)
        return flops.training_flops(config, *size, trainable) + solves
    columns = subspace_lowering.RANK + linalg.OVERSAMPLE
    return flops.sketch_flops(config, trainable, columns, linalg.POWER_ITERATIONS)


def ask(name: str, settings: PlanSettings, config: ModelConfig) -> dict[str, Any]:
    """One program: its memory and, unless `settings.fast`, its operations.

    The model lies on the chips while any of them runs, and counts; the matrices before
    the first round do not: they are needed for the final change alone.

    FLOPs are those of the matrix products in the compiled program, of all chips; those
    of attention kernels are not known. A product in float32 counts once, though a chip
    makes six passes of it.

    Args:
      name: of `subspace_lowering.PROGRAMS`.

    Returns:
      {"needs": bytes a chip, "fits", "memory": None where it does not fit, and where it
      does "collectives"; compiled to the end "flops", "seconds_at_least",
      "unknown_loops" (each counts once), "compile_seconds"}.
    """
    where = topologies.find(settings.topology, settings.num_slices)
    began = time.perf_counter()
    try:
        if settings.fast:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "settings.json")
                command = subspace_lowering.write(settings, path, name)
                program = subspace_lowering.PROGRAMS[name]
                memory, schedule = dump.watch(command, program, TIMEOUT)
        else:
            mesh = lowering.mesh_of(settings)
            lowered = subspace_lowering.lower(name, settings, config, mesh)
            _, memory, schedule = dump.compile_step(lowered)
    except dump.DoesNotFit as error:
        return {"needs": int(error.needed), "fits": False, "memory": None}
    sizes = dict(lowering.mesh_of(settings).shape)
    held = sharding.bytes_per_device(llama.abstract_params(config), sizes)
    parts = memory_of(memory, held)
    found = {
        "needs": parts["total"],
        "fits": parts["total"] <= where.hbm_bytes,
        "memory": parts,
        "collectives": schedule.bytes_by_kind(),
    }
    if settings.fast:
        return found
    return found | {
        "flops": schedule.flops * where.chips,
        "seconds_at_least": where.seconds(schedule.cycles),
        "clock_is_certain": where.generation.clock_is_certain,
        "unknown_loops": len(schedule.unknown_loops),
        "compile_seconds": time.perf_counter() - began,
    }


def run(settings: PlanSettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: no such architecture or slice, or something that
        does not divide over it.
      RuntimeError: libtpu is not installed, or the compiler failed.
    """
    config = lowering.architecture_of(settings.model)
    where = topologies.find(settings.topology, settings.num_slices)
    mesh = lowering.mesh_of(settings)
    with jax.set_mesh(mesh):
        lowering.devices.parameter_shardings(config)  # checks that all divides
        rows = subspace_lowering.batch_rows(settings)
    results = {
        "model": settings.model,
        "parameters": llama.parameter_count(config),
        "matrices": subspace_lowering.trainable_of(settings, config).matrices,
        "topology": settings.topology,
        "num_slices": settings.num_slices,
        "chips": where.chips,
        "has": where.hbm_bytes,
        "mesh": dict(mesh.shape),
        "rows": rows,
        "context": settings.surgery.data.context,
        "rank": subspace_lowering.RANK,
        "programs": {},
    }
    print(report.headline(results, config), flush=True)
    for name in subspace_lowering.PROGRAMS:
        found = ask(name, settings, config)
        found["counted_flops"] = counted_flops(name, settings, config, rows)
        results["programs"][name] = found
        print(report.line(name, found), flush=True)
    programs = results["programs"]
    results["largest"] = max(programs, key=lambda name: programs[name]["needs"])
    results["needs"] = programs[results["largest"]]["needs"]
    results["fits"] = all(found["fits"] for found in programs.values())
    print(report.verdict(results))
    results["settings"] = dataclasses.asdict(settings)
    folder = epath.Path(directory)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"results in {folder}")
    return results
