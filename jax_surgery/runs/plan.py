# SPDX-License-Identifier: Apache-2.0
"""What a run's programs need on a TPU slice, before the slice is rented.

The run: architecture and slice -> the real programs, compiled for the slice ->
memory against what a chip has, operations, collectives, bounds of speed -> other
settings and slices, of which memory alone is asked -> a table, a picture, results.json.
"""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from jax_surgery.config import section
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import progress
from jax_surgery.plan import ask, lowering, neighbours, programs, report, topologies
from jax_surgery.plan.picture import picture
from jax_surgery.plan.settings import PlanSettings
from jax_surgery.storage import files
from jax_surgery.train import devices


def plan(settings: PlanSettings, config: ModelConfig) -> dict[str, Any]:
    """Asks for every program of a plan, and prints each as it is known.

    Returns:
      {"programs": by name, see `ask.ask`, "largest": the one that needs the most memory,
      "needs": its bytes per chip, "fits": whether all do}; of a step, what `ask` says
      of it too.
    """
    found: dict[str, Any] = {}
    for name in programs.names_of(settings):
        if not settings.fast:
            print(f"compiling {name}; 1 to 5 minutes on 2 cores", flush=True)
        with progress.phase(f"compiling {name}"):
            found[name] = ask.ask(name, settings, config)
        print(report.program_text(name, found[name]), flush=True)
    largest = max(found, key=lambda name: found[name]["needs"])
    return found.get("step", {}) | {
        "programs": found,
        "largest": largest,
        "needs": found[largest]["needs"],
        "fits": all(each["fits"] for each in found.values()),
    }


def ask_memory(settings: PlanSettings) -> dict[str, Any]:
    """The program of a plan that needs the most memory: see `ask.ask`, memory alone.

    Raises:
      ValueError: a program that does not divide over the slice.
      RuntimeError, TimeoutError: see `dump.compiled`.
    """
    config = lowering.architecture_of(settings.model)
    fast = dataclasses.replace(settings, fast=True)
    asked = [ask.ask(name, fast, config) for name in programs.names_of(fast)]
    return max(asked, key=lambda each: each["needs"])


def try_neighbours(settings: PlanSettings) -> list[dict[str, Any]]:
    """Memory of every neighbour, printed as it is known."""
    found = []
    others = list(neighbours.neighbours(settings))
    for flags, other in progress.Bar(others, title="compiling", unit="setting"):
        where = topologies.find(other.topology, other.num_slices)
        try:
            with section("surgery", SurgerySettings):
                asked = ask_memory(other)
        except ValueError as error:
            asked = {"needs": None, "fits": False, "memory": None, "why": str(error)}
        asked |= {"flags": flags, "has": where.hbm_bytes, "chips": where.chips}
        print(report.neighbour_line(asked), flush=True)
        found.append(asked)
    return found


def asked_for(settings: PlanSettings, config: ModelConfig) -> dict[str, Any]:
    """What is planned, as results.json says it."""
    where = topologies.find(settings.topology, settings.num_slices)
    mesh = lowering.mesh_of(settings)
    with jax.set_mesh(mesh):
        rows = programs.rows_of(settings)
        if not settings.rows:
            devices.say_filled(settings.surgery.data.rows, rows)
    asked = {
        "program": settings.program,
        "model": settings.model,
        "parameters": decoder.parameter_count(config),
        "topology": settings.topology,
        "num_slices": settings.num_slices,
        "chips": where.chips,
        "has": where.hbm_bytes,
        "mesh": meshes.sizes(mesh),
        "rows": dataclasses.asdict(rows),
    }
    if settings.program == "subspace":
        asked |= {
            "matrices": programs.trainable_of(settings, config).matrices,
            "rows": rows.unlearn,
            "context": settings.surgery.data.context,
            "rank": programs.RANK,
        }
    return asked


def run(settings: PlanSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: no such architecture or slice, or something that
        does not divide over it.
      RuntimeError: libtpu is not installed, or the compiler failed.
    """
    config = lowering.architecture_of(settings.model)
    with section("surgery", SurgerySettings):
        results = asked_for(settings, config)
        print(report.headline(results, settings, config), flush=True)
        results |= plan(settings, config)
    # A removal's four programs take long to ask of every neighbour.
    helps = not results["fits"] or (settings.program == "step" and not settings.fast)
    wanted = settings.neighbours == "yes" or (settings.neighbours == "auto" and helps)
    results["neighbours"] = []
    if wanted:
        print("\nother settings and slices, memory alone:")
        results["neighbours"] = try_neighbours(settings)
    print("\n" + report.advice(results))
    folder = epath.Path(directory)
    results["settings"] = dataclasses.asdict(settings)
    text = json.dumps(results, indent=2) + "\n"
    files.write_text(folder / "results.json", text)
    files.write_bytes(folder / "memory.png", picture(results))
    return results
