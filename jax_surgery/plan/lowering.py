# SPDX-License-Identifier: Apache-2.0
"""The step of a run for a slice that is not here: its shapes, and no numbers.

As a program (`python -m jax_surgery.plan.lowering SETTINGS.json`) it compiles the step
and prints nothing; `compiled.dump.watch` reads what the compiler leaves.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.benchmarks.embedded import MODEL
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import build
from jax_surgery.data.batch import Batch
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import descent
from jax_surgery.methods.reference import FIELDS
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models import llama, output_head, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.published import SIZES, sizes
from jax_surgery.optim import lora
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import topologies
from jax_surgery.plan.settings import PlanSettings
from jax_surgery.train import devices
from jax_surgery.train.step import TrainState


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
        return sizes(model)  # says which names there are
    return hf_weights.load_config(model)


def mesh_of(settings: PlanSettings) -> jax.sharding.Mesh:
    """The mesh over the slice's chips.

    Raises:
      ValueError: no such slice, or a mesh that does not fit it.
    """
    chips = topologies.devices(settings.topology, settings.num_slices)
    return meshes.make_mesh(settings.surgery.mesh, chips)


def rows_of(settings: PlanSettings) -> RoleRows:
    """A step's rows on the mesh that is set."""
    data, accumulate = settings.surgery.data, settings.surgery.accumulate
    shards = meshes.axis_size(*meshes.ROWS)
    wanted = data.rows
    if settings.rows:
        each = settings.rows * shards * accumulate
        wanted = {role: each for role in ROLES}
    return devices.role_rows(wanted, accumulate)


def abstract_batch(run: SurgerySettings, config: ModelConfig, rows: RoleRows) -> Batch:
    """Shapes of a placed batch, with where they lie."""
    place = NamedSharding(jax.sharding.get_mesh(), P(meshes.ROWS))

    def of(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    context = run.data.context
    whole = (rows.total, context)
    ids = of(whole, jnp.int32)
    batch = Batch(ids, ids, ids, weights_BT=of(whole, jnp.float32))
    if run.reference == "cached":
        for role, reading in run.loss.readings(rows).items():
            shape = (getattr(rows, role), context, *reading.shape(config))
            array = of(shape, reading.dtype(run.compute))
            batch = batch.replace(**{FIELDS[role]: array})
    return batch


def lower(
    settings: PlanSettings, config: ModelConfig, mesh: jax.sharding.Mesh
) -> tuple[jax.stages.Lowered, RoleRows]:
    """The real step of a run, lowered for a mesh of chips that need not be here.

    Raises:
      ValueError: something that does not divide over the mesh.
    """
    run, low_rank = settings.surgery, settings.surgery.lora
    cached = run.reference == "cached"
    with jax.set_mesh(mesh):
        devices.parameter_shardings(config)  # checks that all divides
        rows = rows_of(settings)
        optimizer, step = descent.make_step(run, config, rows)
        params = llama.abstract_params(config)
        if low_rank.rank:
            params = jax.eval_shape(lambda: lora.init_factors(config, low_rank, 0))
        state = jax.eval_shape(
            lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)), params
        )
        frozen = llama.abstract_params(config, run.compute.dtype)
        if cached and not low_rank.rank:  # of which it is the base too
            frozen = output_head.parameters(frozen)
        batch = abstract_batch(run, config, rows)
        lowered = step.lower(
            sharding.abstract(state, mesh), batch, sharding.abstract(frozen, mesh)
        )
    return lowered, rows


def main(path: str) -> None:
    """Compiles the step of the settings in a JSON file."""
    values = json.loads(pathlib.Path(path).read_text())
    settings = build(PlanSettings, values)
    topologies.prepare()
    lowered, _ = lower(settings, architecture_of(settings.model), mesh_of(settings))
    lowered.compile()


def write(settings: PlanSettings, path: pathlib.Path) -> list[str]:
    """Writes settings for `main`; returns the command that compiles them."""
    path.write_text(json.dumps(dataclasses.asdict(settings)))
    return [sys.executable, "-m", "jax_surgery.plan.lowering", str(path)]


if __name__ == "__main__":
    main(sys.argv[1])
