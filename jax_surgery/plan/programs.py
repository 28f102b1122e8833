# SPDX-License-Identifier: Apache-2.0
"""The programs that are planned, in one table: shapes on a slice, and no numbers.

A plan of a step compiles the step and, where its optimizer is preconditioned, the two
programs that compute its statistics, or the four where it reads those of outputs too. A plan of a subspace removal compiles four.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jax_surgery.data.batch import OF_ROLE, Batch
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import descent
from jax_surgery.methods.subspace import changes, identify, rounds
from jax_surgery.models import decoder, flops, layout, output_head, sharding
from jax_surgery.models import trainable as moving
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim import lora
from jax_surgery.optim.linalg import svd
from jax_surgery.optim.precondition import moments, output_moments
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
      flops: on all chips, counted from shapes (see `models.flops`).
    """

    function: Any
    arguments: tuple[Any, ...]
    resident: Groups
    flops: float

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


def _on_mesh(tree: Any) -> Any:
    """Shapes with their places on the mesh that is set."""
    return sharding.abstract(tree, jax.sharding.get_mesh())


def _place(*spec: Any) -> NamedSharding:
    return NamedSharding(jax.sharding.get_mesh(), meshes.spec(*spec))


def _batch(rows: int, context: int, *names: str) -> Batch:
    """Packed rows with the further float32 fields `names`, [rows, context]."""
    place = _place(meshes.ROWS)
    ids = jax.ShapeDtypeStruct((rows, context), jnp.int32, sharding=place)
    values = jax.ShapeDtypeStruct((rows, context), jnp.float32, sharding=place)
    # A pytree of shapes in place of arrays, which the types of a batch do not know.
    text = ("tokens_BT", "segment_ids_BT", "positions_BT")
    fields: dict[str, Any] = dict.fromkeys(text, ids) | dict.fromkeys(names, values)
    return Batch(**fields)


def _training(
    settings: PlanSettings, config: ModelConfig
) -> tuple[Any, TrainState, Any, Batch]:
    """The jitted step of a run with its state, reference and batch."""
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
    batch = _batch(rows.total, run.data.context, "weights_BT")
    for role, reading in run.loss.readings(rows).items() if cached else ():
        shape = (getattr(rows, role), run.data.context, *reading.shape(config))
        kind = reading.dtype(run.compute)
        array = jax.ShapeDtypeStruct(shape, kind, sharding=_place(meshes.ROWS))
        batch = batch.replace(**{reading.field: array})
    if cached and run.trainable(config).first_layer:
        shape = (rows.total, run.data.context, config.hidden_size)
        place, dtype = _place(meshes.ROWS), run.compute.dtype
        lower = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        batch = batch.replace(lower_BTD=lower)
    inside, everywhere = run.inside, _place()
    if inside.silenced:
        shape = (rows.total, config.num_layers, 2)
        gates = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=everywhere)
        batch = batch.replace(gates_BLP=gates)
    if inside.copies:
        factor = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
        shift = _on_mesh(params)["layers"]
        batch = batch.replace(shift=shift, shift_factor=factor)
    return step, _on_mesh(state), _on_mesh(frozen), batch


def _held(settings: PlanSettings, config: ModelConfig) -> Groups:
    """What lies on the chips throughout a run."""
    if settings.program == "subspace":
        return {"parameters": _on_mesh(decoder.abstract_params(config))}
    _, state, frozen, batch = _training(settings, config)
    held = {
        "parameters": state.params,
        "optimizer": (state.opt_state, state.step),
        "reference": frozen,
    }
    return held | ({"copy": batch.shift} if batch.shift is not None else {})


def _moments_of(settings: PlanSettings, config: ModelConfig) -> Groups:
    """The second moments of what a run changes: by their group's name."""
    trainable = trainable_of(settings, config)
    sums = jax.eval_shape(lambda: moments.zero_moments(config, trainable))
    name = "statistics" if settings.program == "step" else "kept tasks"
    return {name: _on_mesh(sums)}


def step(settings: PlanSettings, config: ModelConfig) -> Call:
    """One training step.

    FLOPs: 6 a weight and token, and causal attention, which spans half of the context;
    recomputation and the reference do not count.
    """
    function, state, frozen, batch = _training(settings, config)
    resident = {
        "parameters": state.params,
        "optimizer": (state.opt_state, state.step),
        "reference": (frozen, [getattr(batch, name) for name in OF_ROLE]),
        "batch": batch.replace(**dict.fromkeys(OF_ROLE)),
    }
    rows, context = batch.tokens_BT.shape
    counted = flops.training_flops(config, rows * context, context // 2)
    return Call(function, (state, batch, frozen), resident, counted)


def moments_of_batch(settings: PlanSettings, config: ModelConfig) -> Call:
    """Adds the second moments of one batch's inputs to those of earlier ones.

    FLOPs: a forward pass without the head, and 2 d^2 a token, layer and input.
    """
    held, sums = _held(settings, config), _moments_of(settings, config)
    rows, context = rows_of(settings).unlearn, settings.surgery.data.context
    batch = _batch(rows, context, "moment_weights_BT")
    trainable = trainable_of(settings, config)
    (values,) = sums.values()
    arguments = (held["parameters"], config, batch, settings.surgery.compute)
    counted = flops.moments_flops(
        *(config, rows * context, context),
        layout.statistics(config, trainable.matrices),
        config.num_layers - trainable.first_layer,
    )
    resident = held | sums | {"batch": batch}
    return Call(moments.add, (*arguments, trainable, values), resident, counted)


def ridge(settings: PlanSettings, config: ModelConfig) -> Call:
    """The Cholesky factors of all second moments; 2 d^3 FLOPs of each layer and input."""
    sums, trainable = _moments_of(settings, config), trainable_of(settings, config)
    (values,) = sums.values()
    counted = flops.cholesky_flops(
        layout.statistics(config, trainable.matrices),
        config.num_layers - trainable.first_layer,
    )
    resident = _held(settings, config) | sums
    return Call(ridges.factorise, (values, 1e-3), resident, counted)


def _output_moments_of(settings: PlanSettings, config: ModelConfig) -> Any:
    """The moments of the outputs of what a run changes."""
    trainable = trainable_of(settings, config)
    sums = jax.eval_shape(lambda: output_moments.zero_moments(config, trainable))
    return _on_mesh(sums)


def output_moments_of_batch(settings: PlanSettings, config: ModelConfig) -> Call:
    """Adds the second moments of one batch's outputs to those of earlier ones.

    FLOPs: a forward and a backward pass without gradients of weights, and 2 d^2 a token,
    layer and output.
    """
    held, inputs = _held(settings, config), _moments_of(settings, config)
    sums, trainable = (
        _output_moments_of(settings, config),
        trainable_of(settings, config),
    )
    rows, context = rows_of(settings).unlearn, settings.surgery.data.context
    batch = _batch(rows, context, "weights_BT")
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=_place())
    how = (config, batch, settings.surgery.compute, trainable, seed)
    counted = flops.output_moments_flops(
        *(config, rows * context, context),
        layout.outputs(config, trainable.matrices),
        config.num_layers - trainable.first_layer,
    )
    statistics = {"statistics": (inputs["statistics"], sums)}
    resident = held | statistics | {"batch": (batch, seed)}
    arguments = (held["parameters"], *how, sums)
    return Call(output_moments.add, arguments, resident, counted)


def output_ridge(settings: PlanSettings, config: ModelConfig) -> Call:
    """The inverses of all moments of outputs; 2 d^3 FLOPs of each layer and output for
    the factors, and 4 d^3 for the inverses."""
    trainable = trainable_of(settings, config)
    inputs = _moments_of(settings, config)["statistics"]
    sums = _output_moments_of(settings, config)
    counted = 3 * flops.cholesky_flops(
        layout.outputs(config, trainable.matrices),
        config.num_layers - trainable.first_layer,
    )
    resident = _held(settings, config) | {"statistics": (inputs, sums)}
    arguments = (sums, inputs, descent.OUTPUT_RIDGE)
    return Call(ridges.of_outputs, arguments, resident, counted)


def removing_round(settings: PlanSettings, config: ModelConfig) -> Call:
    """One removing round with the ridge.

    FLOPs: a forward and a backward pass, without recomputation, and two triangular
    solves, of 2 inputs^2 outputs each.
    """
    trainable = trainable_of(settings, config)
    how = rounds.Rounds(
        *(config, settings.surgery.compute, trainable),
        *(identify.TaskLoss("margin", 4.0), 100, 1e-3, True, "joint"),
    )
    (params,) = _held(settings, config).values()
    (sums,) = _moments_of(settings, config).values()
    state = _on_mesh(
        jax.eval_shape(
            lambda p, s: rounds.begin(how, p, ridges.Factors(s)), params, sums
        )
    )
    rows, context = rows_of(settings).unlearn, settings.surgery.data.context
    batch = _batch(rows, context, "token_weights_BT", "target_log_odds_BT")
    resident = {
        "parameters": state.params,
        "kept tasks": state.knowledge,
        "batch": (batch, state._replace(params=(), knowledge=())),
    }
    passes = flops.training_flops(config, rows * context, context, trainable)
    counted = passes + flops.solve_flops(config, trainable)
    take_round = rounds.program(meshes.platform())
    return Call(take_round, (how, state, batch), resident, counted)


def factors(settings: PlanSettings, config: ModelConfig) -> Call:
    """The factors of a removal's final change, of rank `RANK`.

    FLOPs: six products of every matrix with its sketch of 80 columns.
    """
    trainable = trainable_of(settings, config)
    taken = jax.eval_shape(trainable.take, decoder.abstract_params(config))
    change = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=_place(*layout.MATRICES[name].stack_spec)
        )
        for name, leaf in taken.items()
    }
    columns = RANK + svd.OVERSAMPLE
    counted = flops.sketch_flops(config, trainable, columns, svd.POWER_ITERATIONS)
    resident = _held(settings, config) | {"change": change}
    return Call(changes.factors, (change, RANK), resident, counted)


# The functions above by name. All take (settings, config) and place what they take on
# the mesh that is set; they raise ValueError where something does not divide over it.
PROGRAMS: dict[str, Callable[[PlanSettings, ModelConfig], Call]] = {
    "step": step,
    "moments": moments_of_batch,
    "ridge": ridge,
    "output_moments": output_moments_of_batch,
    "output_ridge": output_ridge,
    "round": removing_round,
    "factors": factors,
}


def names_of(settings: PlanSettings) -> tuple[str, ...]:
    """The programs of a plan, in the order in which its run needs them."""
    if settings.program == "subspace":
        return ("moments", "ridge", "round", "factors")
    optimizer = settings.surgery.optimizer
    found = ("step", "moments", "ridge") if optimizer.preconditioned else ("step",)
    of_outputs = ("output_moments", "output_ridge") if optimizer.reads_outputs else ()
    return found + of_outputs
