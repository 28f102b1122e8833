# SPDX-License-Identifier: Apache-2.0
"""A plan's programs, lowered for a slice that is not here.

As a program (`python -m jax_surgery.plan.lowering SETTINGS [NAME]`) it compiles
one of `programs.PROGRAMS`, by default the step, and prints nothing;
`compiled.dump.compiled` reads what the compiler leaves.
"""

import dataclasses
import json
import pathlib
import sys

import jax

from jax_surgery.benchmarks.embedded import MODEL
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import build
from jax_surgery.models import sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.published import SIZES, sizes
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import programs, topologies
from jax_surgery.plan.settings import PlanSettings


def architecture_of(model: str) -> ModelConfig:
    """The architecture of `config.model`; its weights are not read.

    Raises:
      FileNotFoundError, ValueError: no such architecture or checkpoint.
    """
    if model in SIZES:
        return SIZES[model]
    if model == "embedded":
        return hf_weights.load_config(str(MODEL))
    if "/" not in model:
        return sizes(model)  # its error says which names there are
    return hf_weights.load_config(model)


def mesh_of(settings: PlanSettings) -> jax.sharding.Mesh:
    """The mesh over the slice's chips.

    Raises:
      ValueError: no such slice, or a mesh that does not fit it.
    """
    chips = topologies.devices(settings.topology, settings.num_slices)
    return meshes.make_mesh(settings.surgery.mesh, chips)


def call(
    name: str, settings: PlanSettings, config: ModelConfig, mesh: jax.sharding.Mesh
) -> programs.Call:
    """A program with the shapes that it takes, on a mesh that need not be here.

    Raises:
      ValueError: something that does not divide over the mesh.
    """
    with jax.set_mesh(mesh):
        sharding.parameter_shardings(config)  # checks that all divides
        return programs.PROGRAMS[name](settings, config)


def lower(
    name: str, settings: PlanSettings, config: ModelConfig, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
    """`call`, lowered for the mesh's chips."""
    called = call(name, settings, config, mesh)
    with jax.set_mesh(mesh):
        return called.function.lower(*called.arguments)


def read(path: pathlib.Path) -> PlanSettings:
    """The settings that `write` wrote."""
    return build(PlanSettings, json.loads(path.read_text()))


def main(path: str, name: str = "step") -> None:
    """Compiles a program for the settings in a file."""
    settings = read(pathlib.Path(path))
    topologies.prepare()
    config = architecture_of(settings.model)
    lower(name, settings, config, mesh_of(settings)).compile()


def write(settings: PlanSettings, path: pathlib.Path, name: str) -> list[str]:
    """Writes settings for `main`; returns the command that compiles a program."""
    path.write_text(json.dumps(dataclasses.asdict(settings)))
    return [sys.executable, "-m", "jax_surgery.plan.lowering", str(path), name]


if __name__ == "__main__":
    main(*sys.argv[1:])
