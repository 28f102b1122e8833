# SPDX-License-Identifier: Apache-2.0
"""The programs of a subspace removal for a slice that is not here: shapes, no numbers.

As a program (`python -m jax_surgery.plan.subspace_lowering SETTINGS.json NAME`) it
compiles one of them and prints nothing; see `runs.lowering`.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.config import build
from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import identify, learn, rounds
from jax_surgery.models import layout, llama, sharding
from jax_surgery.models import trainable as moving
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.precondition import moments, ridge
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import lowering, topologies
from jax_surgery.plan.settings import PlanSettings
from jax_surgery.train import devices

RANK = 64  # of the factors of the change

# What each program is of the compiler's names, in the order of a removal.
PROGRAMS = {
    "moments": "jit_add",
    "ridge": "jit_factorise",
    "round": "jit_take_round",
    "factors": "jit_factors",
}


def trainable_of(settings: PlanSettings, config: ModelConfig) -> moving.Trainable:
    """What moves: what `surgery.optimizer` says; all seven matrices where it says all
    parameters, since embeddings are no layer's matrices."""
    options = settings.surgery.optimizer
    names = options.matrices or ",".join(moving.BLOCK_OF)
    return moving.resolve(config, options.first_layer, names)


def batch_rows(settings: PlanSettings) -> int:
    """Rows of a batch on the mesh that is set: those of one role of the plan."""
    return lowering.rows_of(settings).unlearn


def _batch(settings: PlanSettings, names: tuple[str, ...], mesh: Mesh) -> Any:
    shape = (batch_rows(settings), settings.surgery.data.context)
    place = NamedSharding(mesh, P(meshes.ROWS))
    ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    weights = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    return Batch(ids, ids, ids, **dict.fromkeys(names, weights))


def lower(
    name: str, settings: PlanSettings, config: ModelConfig, mesh: Mesh
) -> jax.stages.Lowered:
    """One of `PROGRAMS`, lowered for a mesh of chips that need not be here.

    moments  adds the moments of a batch's inputs to those of earlier ones
    ridge    the Cholesky factors of all moments
    round    one removing round with the ridge
    factors  the factors of the final change at `RANK`

    Raises:
      ValueError: something that does not divide over the mesh.
    """
    run = settings.surgery
    trainable = trainable_of(settings, config)
    with jax.set_mesh(mesh):
        devices.parameter_shardings(config)  # checks that all divides
        on_mesh = functools.partial(sharding.abstract, mesh=mesh)
        params = llama.abstract_params(config)
        sums = jax.eval_shape(lambda: moments.zero_moments(config, trainable))
        if name == "moments":
            batch = _batch(settings, ("moment_weights_BT",), mesh)
            return moments.add.lower(
                on_mesh(params), config, batch, run.compute, trainable, on_mesh(sums)
            )
        if name == "ridge":
            return ridge.factorise.lower(on_mesh(sums), 1e-3)
        if name == "factors":
            change = {
                matrix: jax.ShapeDtypeStruct(
                    leaf.shape,
                    leaf.dtype,
                    sharding=NamedSharding(mesh, layout.MATRICES[matrix].stack_spec),
                )
                for matrix, leaf in jax.eval_shape(trainable.take, params).items()
            }
            return learn.factors.lower(change, RANK)
        how = rounds.Rounds(
            *(config, run.compute, trainable, identify.TaskLoss()),
            number=100,
            step=1e-3,
            decay=True,
            order="joint",
        )
        state = jax.eval_shape(
            functools.partial(rounds.begin, how), params, ridge.Factors(sums)
        )
        batch = _batch(settings, ("token_weights_BT", "target_log_odds_BT"), mesh)
        return rounds.take_round.lower(how, on_mesh(state), batch)


def main(path: str, name: str) -> None:
    """Compiles a program for the settings in a JSON file."""
    settings = build(PlanSettings, json.loads(pathlib.Path(path).read_text()))
    topologies.prepare()
    config = lowering.architecture_of(settings.model)
    lower(name, settings, config, lowering.mesh_of(settings)).compile()


def write(settings: PlanSettings, path: pathlib.Path, name: str) -> list[str]:
    """Writes settings for `main`; returns the command that compiles a program."""
    path.write_text(json.dumps(dataclasses.asdict(settings)))
    module = "jax_surgery.plan.subspace_lowering"
    return [sys.executable, "-m", module, str(path), name]


if __name__ == "__main__":
    main(*sys.argv[1:])
