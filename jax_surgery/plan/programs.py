# SPDX-License-Identifier: Apache-2.0
"""The programs that are planned, in one table: shapes on a slice, and no numbers.

A plan of a step compiles the step and, where its optimizer is preconditioned, the two
programs that refresh its statistics. A plan of a subspace removal compiles four.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import descent
from jax_surgery.methods.reference import FIELDS
from jax_surgery.methods.subspace import identify, learn, rounds
from jax_surgery.models import decoder, flops, layout, output_head, sharding
from jax_surgery.models import trainable as moving
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim import lora
from jax_surgery.optim.linalg import svd
from jax_surgery.optim.precondition import moments
from jax_surgery.optim.precondition import ridge as ridges
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan.compiled.memory import Memory
from jax_surgery.plan.settings import PlanSettings
from jax_surgery.train import devices
from jax_surgery.train.step import TrainState

RANK = 64  # of the factors of a removal's change
Groups = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """A jitted function and the shapes of its arguments.

    Attributes:
      arguments: as the function takes them; arrays are `jax.ShapeDtypeStruct` with
        their places on the slice.
      resident: trees of such shapes by what they are for: all that lies on the chips
        while the program runs, whether it takes it or not.
    """

    function: Any
    arguments: tuple[Any, ...]
    resident: Groups

    @property
    def name(self) -> str:
        """What the compiler calls the program."""
        return f"jit_{self.function.__name__}"

    def memory(self, compiled: Memory) -> dict[str, int]:
        """Bytes per chip by what they are for; they add up to `total`.

        Args:
          compiled: what the compiler says of the program. What tiles are padded with
            counts as temporary.
        """
        parts = {name: bytes_per_chip(tree) for name, tree in self.resident.items()}
        padding = max(0, compiled.arguments - sum(parts.values()))
        parts["temporaries"] = compiled.added + padding
        return parts | {"total": sum(parts.values())}


def bytes_per_chip(tree: Any) -> int:
    """Bytes of a tree of `jax.ShapeDtypeStruct` with shardings on one chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def rows_of(settings: PlanSettings) -> RoleRows:
    """A step's rows on the mesh that is set."""
    data, accumulate = settings.surgery.data, settings.surgery.accumulate
    shards = meshes.axis_size(*meshes.ROWS)
    wanted = data.rows
    if settings.rows:
        each = settings.rows * shards * accumulate
        wanted = {role: each for role in ROLES}
    return devices.role_rows(wanted, accumulate)


def trainable_of(settings: PlanSettings, config: ModelConfig) -> moving.Trainable:
    """What a plan's run changes: what its settings say; in a subspace removal all seven
    matrices where they say all parameters, since embeddings are no layer's matrices."""
    if settings.program == "step":
        return settings.surgery.trainable(config)
    options = settings.surgery.optimizer
    return moving.resolve(
        config, options.first_layer, options.matrices, only_matrices=True
    )


def _batch(rows: int, settings: PlanSettings, mesh: Mesh, *names: str) -> Batch:
    """Packed rows with the further float32 fields `names`, [rows, context], on a mesh."""
    shape = (rows, settings.surgery.data.context)
    place = NamedSharding(mesh, P(meshes.ROWS))
    ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    values = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
    # A pytree of shapes in place of arrays, which the types of a batch do not know.
    text = ("tokens_BT", "segment_ids_BT", "positions_BT")
    fields: dict[str, Any] = dict.fromkeys(text, ids) | dict.fromkeys(names, values)
    return Batch(**fields)


def _training(
    settings: PlanSettings, config: ModelConfig, mesh: Mesh
) -> tuple[Any, TrainState, Any, Batch]:
    """The jitted step of a run with its state, reference and batch on the mesh."""
    run, low_rank = settings.surgery, settings.surgery.lora
    cached = run.reference == "cached"
    rows = rows_of(settings)
    optimizer, step = descent.make_step(run, config, rows)
    params = decoder.abstract_params(config)
    if low_rank.rank:
        params = jax.eval_shape(lambda: lora.init_factors(config, low_rank, 0))
    state = jax.eval_shape(
        lambda p: TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)), params
    )
    frozen = decoder.abstract_params(config, run.compute.dtype)
    if cached and not low_rank.rank:  # of which it is the base too
        frozen = output_head.parameters(frozen)
    batch = _batch(rows.total, settings, mesh, "weights_BT")
    place = NamedSharding(mesh, P(meshes.ROWS))
    for role, reading in run.loss.readings(rows).items() if cached else ():
        shape = (getattr(rows, role), run.data.context, *reading.shape(config))
        kind = reading.dtype(run.compute)
        array = jax.ShapeDtypeStruct(shape, kind, sharding=place)
        batch = batch.replace(**{FIELDS[role]: array})
    on_mesh = functools.partial(sharding.abstract, mesh=mesh)
    return step, on_mesh(state), on_mesh(frozen), batch


def _held(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Groups:
    """What lies on the chips throughout a run."""
    if settings.program == "subspace":
        params = decoder.abstract_params(config)
        return {"parameters": sharding.abstract(params, mesh)}
    _, state, frozen, _ = _training(settings, config, mesh)
    return {
        "parameters": state.params,
        "optimizer": (state.opt_state, state.step),
        "reference": frozen,
    }


def _moments_of(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Groups:
    """The second moments of what a run changes: by their group's name."""
    trainable = trainable_of(settings, config)
    sums = jax.eval_shape(lambda: moments.zero_moments(config, trainable))
    name = "statistics" if settings.program == "step" else "kept tasks"
    return {name: sharding.abstract(sums, mesh)}


def step(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Call:
    """One training step."""
    function, state, frozen, batch = _training(settings, config, mesh)
    resident = {
        "parameters": state.params,
        "optimizer": (state.opt_state, state.step),
        "reference": (frozen, [getattr(batch, name) for name in FIELDS.values()]),
        "batch": batch.replace(**dict.fromkeys(FIELDS.values())),
    }
    return Call(function, (state, batch, frozen), resident)


def moments_of_batch(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Call:
    """Adds the second moments of one batch's inputs to those of earlier ones."""
    held, sums = _held(settings, config, mesh), _moments_of(settings, config, mesh)
    batch = _batch(rows_of(settings).unlearn, settings, mesh, "moment_weights_BT")
    trainable = trainable_of(settings, config)
    (values,) = sums.values()
    arguments = (held["parameters"], config, batch, settings.surgery.compute)
    resident = held | sums | {"batch": batch}
    return Call(moments.add, (*arguments, trainable, values), resident)


def ridge(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Call:
    """The Cholesky factors of all second moments."""
    sums = _moments_of(settings, config, mesh)
    (values,) = sums.values()
    resident = _held(settings, config, mesh) | sums
    return Call(ridges.factorise, (values, 1e-3), resident)


def removing_round(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Call:
    """One removing round with the ridge."""
    how = rounds.Rounds(
        *(config, settings.surgery.compute, trainable_of(settings, config)),
        *(identify.TaskLoss(), 100, 1e-3, True, "joint"),
    )
    (params,) = _held(settings, config, mesh).values()
    (sums,) = _moments_of(settings, config, mesh).values()
    state = jax.eval_shape(
        lambda p, s: rounds.begin(how, p, ridges.Factors(s)), params, sums
    )
    state = sharding.abstract(state, mesh)
    names = ("token_weights_BT", "target_log_odds_BT")
    batch = _batch(rows_of(settings).unlearn, settings, mesh, *names)
    resident = {
        "parameters": state.params,
        "kept tasks": state.knowledge,
        "batch": (batch, state._replace(params=(), knowledge=())),
    }
    return Call(rounds.take_round, (how, state, batch), resident)


def factors(settings: PlanSettings, config: ModelConfig, mesh: Mesh) -> Call:
    """The factors of a removal's final change, of rank `RANK`."""
    held = _held(settings, config, mesh)
    trainable = trainable_of(settings, config)
    taken = jax.eval_shape(trainable.take, decoder.abstract_params(config))
    change = {
        name: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=NamedSharding(mesh, layout.MATRICES[name].stack_spec),
        )
        for name, leaf in taken.items()
    }
    return Call(learn.factors, (change, RANK), held | {"change": change})


# The functions above by name. All take (settings, config, mesh), the mesh being set,
# and raise ValueError where something does not divide over it.
PROGRAMS: dict[str, Callable[[PlanSettings, ModelConfig, Mesh], Call]] = {
    "step": step,
    "moments": moments_of_batch,
    "ridge": ridge,
    "round": removing_round,
    "factors": factors,
}


def names_of(settings: PlanSettings) -> tuple[str, ...]:
    """The programs of a plan, in the order in which its run needs them."""
    if settings.program == "subspace":
        return ("moments", "ridge", "round", "factors")
    refreshed = settings.surgery.optimizer.preconditioned
    return ("step", "moments", "ridge") if refreshed else ("step",)


def counted_flops(
    name: str, settings: PlanSettings, config: ModelConfig, rows: int
) -> float:
    """FLOPs of a program on all chips, counted from shapes (see `models.flops`).

    step     6 a weight and token, and causal attention, which spans half of the
             context; recomputation and the reference do not count
    moments  a forward pass without the head, and 2 d^2 a token, layer and input
    ridge    2 d^3 of each layer and input
    round    a forward and a backward pass, without recomputation, and two triangular
             solves, of 2 inputs^2 outputs each
    factors  six products of every matrix with its sketch of 80 columns

    Args:
      name: of `PROGRAMS`.
      rows: of the program's batch.
    """
    context = settings.surgery.data.context
    tokens = rows * context
    if name == "step":
        return flops.training_flops(config, tokens, context // 2)
    trainable = trainable_of(settings, config)
    widths = layout.statistics(config, trainable.matrices)
    layers = config.num_layers - trainable.first_layer
    if name == "moments":
        return flops.moments_flops(config, tokens, context, widths, layers)
    if name == "ridge":
        return flops.cholesky_flops(widths, layers)
    if name == "round":
        solves = flops.solve_flops(config, trainable)
        return flops.training_flops(config, tokens, context, trainable) + solves
    columns = RANK + svd.OVERSAMPLE
    return flops.sketch_flops(config, trainable, columns, svd.POWER_ITERATIONS)
