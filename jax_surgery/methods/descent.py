# SPDX-License-Identifier: Apache-2.0
"""Methods that descend along gradients: their step, their reference, and their run."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.stream import one_pass
from jax_surgery.methods import frozen_states, importance, sharpness
from jax_surgery.methods.dual import DualSteps
from jax_surgery.methods.inside.steps import InsideSteps
from jax_surgery.methods.loku import LoKU
from jax_surgery.methods.pdu import PDU
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models import output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.optim import lora
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.optim.precondition import output_moments, ridge
from jax_surgery.optim.precondition.moments import second_moments
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import progress
from jax_surgery.train import devices
from jax_surgery.train.health import Health
from jax_surgery.train.loop import Callback, Until, train
from jax_surgery.train.step import (
    TrainState,
    init_state,
    make_gradients,
    make_train_step,
)

STATISTICS_ROWS = 8  # rows of a forward pass, at least
OUTPUT_ROWS = 4  # rows of a pass for the moments of outputs, at least
# Of these moments, relative to their mean eigenvalue (results/first_step.md).
OUTPUT_RIDGE = 0.01

# Makes the callbacks of a run from the function that returns the model of a state.
MakeCallbacks = Callable[[Callable[[TrainState], Model]], Sequence[Callback]]


def make_step(settings: SurgerySettings, config: ModelConfig, rows: RoleRows):
    """The optimizer of a run and its jitted step (see `step.make_train_step`)."""
    trainable, low_rank = settings.trainable(config), settings.lora
    # A run that keeps to a budget has steps that cost some of it.
    own_metric = settings.retain.budget > 0
    optimizer = make_optimizer(
        settings.optimizer, settings.steps, trainable, own_metric
    )
    step = make_train_step(
        config,
        settings.loss,
        rows,
        optimizer,
        compute=settings.compute,
        average=settings.data.average,
        accumulate=settings.accumulate,
        trainable=trainable,
        low_rank=low_rank,
        make_gradients=(
            sharpness.make_gradients
            if settings.loss.method.sharpness
            else make_gradients
        ),
    )
    return optimizer, step


def statistics_rows(retained: Packer, settings: SurgerySettings) -> int:
    """Rows that one computation of the statistics reads, filled batches included."""
    rows = len(retained.pack(settings.seed))
    if settings.statistics.tokens:
        limit = round(settings.statistics.tokens / settings.data.context)
        rows = min(rows, max(1, limit))
    batch = meshes.round_rows(STATISTICS_ROWS)
    return -(-rows // batch) * batch


def output_statistics_rows(retained: Packer, settings: SurgerySettings) -> int:
    """Rows that the moments of outputs read: half of the others'."""
    batch = meshes.round_rows(OUTPUT_ROWS)
    return -(-statistics_rows(retained, settings) // (2 * batch)) * batch


def statistics_callbacks(
    config: ModelConfig, retained: Packer | None, settings: SurgerySettings
) -> list[Callback]:
    """Sets the preconditioner's factors before the first step."""
    if not settings.optimizer.preconditioned:
        return []
    assert retained, "a preconditioner without retain text is refused"
    count = statistics_rows(retained, settings)
    trainable = settings.trainable(config)

    def batches(size: int, rows: int, title: str) -> Iterable[Batch]:
        packed = retained.pack(settings.seed, rows)
        return (b.for_devices() for b in one_pass(packed, size, title))

    def compute(step: int, state: TrainState) -> TrainState:
        del step  # the first alone
        of, how = (state.params, config), (settings.compute, trainable)
        size = meshes.round_rows(STATISTICS_ROWS)
        read = batches(size, count, "second moments")
        moments = second_moments(*of, read, *how)
        make = ridge.raised if settings.retain.budget else ridge.checked
        chosen = settings.statistics
        field = "config.statistics.ridge"
        with progress.phase("factoring the second moments"):
            factors = make(moments, chosen.ridge, field, chosen.scale)
        if settings.optimizer.reads_outputs:
            size = meshes.round_rows(OUTPUT_ROWS)
            count_of_outputs = output_statistics_rows(retained, settings)
            read = batches(size, count_of_outputs, "second moments of outputs")
            outputs = output_moments.second_moments(*of, read, *how, settings.seed)
            with progress.phase("factoring the second moments of outputs"):
                found = ridge.of_outputs(outputs, moments, OUTPUT_RIDGE)
            factors = factors._replace(outputs=found)
        return state._replace(opt_state=state.opt_state._replace(factors=factors))

    return [Callback(0, compute)]


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """Steps of descent that are ready to be taken.

    Attributes:
      rows: of a batch.
      state: before the first step; the parameters are the model's own, or factors of
        low-rank deltas.
      step: (state, batch on the host, further fields of the batch by name) -> (state,
        metrics); the state is donated.
      end_of: the parameters (or factors) that a run would end with, of a state's.
      model_of: the model of a state, with these.
      collapsed: what is wrong with a state's model, or "" (see `health.Health`).
    """

    rows: RoleRows
    state: TrainState
    step: Callable[..., tuple[TrainState, dict[str, Any]]]
    end_of: Callable[[Any], Any]
    model_of: Callable[[TrainState], Model]
    collapsed: Callable[[TrainState], str]


def prepare(
    model: Model,
    texts: RoleTexts,
    settings: SurgerySettings,
    directory: str,
    frozen: Model | None = None,
) -> Descent:
    """The steps of a run; they donate the parameters of `model`.

    A frozen copy of what moves serves as reference, with the parameters that do not;
    where the reference is cached, of the output head alone. With low-rank deltas the
    model itself is the base, without a copy.

    Args:
      directory: of the run, for the reference cache.
      frozen: the reference, where it is another model than the one before the run.

    Raises:
      ValueError: see `make_step` and `role_rows`.
    """
    data, low_rank = settings.data, settings.lora
    rows = devices.role_rows(data.rows, settings.accumulate)
    # Before the run: its parameters are given up. Retained text, or what is learned.
    known = texts.packers.get("retain") or texts.retained or texts.packers.get("update")
    health = Health(model, known) if known else None

    def collapsed(state: TrainState) -> str:
        return health.problem(model_of(state)) if health else ""

    optimizer, step = make_step(settings, model.config, rows)
    source = frozen or model
    cached = frozen_states.of_run(source, texts, settings, rows, directory)
    if low_rank.rank:
        reference = model.params
        params = _factors(model, texts, settings)
    else:
        params, needed = model.params, source.params
        if cached.reference:
            needed = output_head.parameters(needed)
        if not settings.loss.readings(rows):
            needed = {}
        # As the forward pass reads them. What moves is donated, and needs a copy.
        dtype = settings.compute.dtype
        still = settings.trainable(model.config).still(params)

        def of_reference(path, leaf):
            if (frozen or path in still) and leaf.dtype == dtype:
                return leaf
            return jnp.array(leaf, dtype, copy=True)

        reference = jax.tree_util.tree_map_with_path(of_reference, needed)

    end_of = _end(params, settings)

    def one_step(state: TrainState, batch: Batch, **fields: Any):
        placed = batch.place(rows.total).replace(**fields)
        placed = placed.replace(**cached.fields(batch, rows))
        return step(state, placed, reference)

    def model_of(state: TrainState) -> Model:
        params = end_of(state.params)
        if not low_rank.rank:
            return model.with_params(params)
        return model.with_params(lora.attach(reference, params, low_rank))

    state = init_state(params, optimizer)
    return Descent(rows, state, one_step, end_of, model_of, collapsed)


def _factors(model: Model, texts: RoleTexts, settings: SurgerySettings) -> lora.Factors:
    """The low-rank factors before the first step."""
    method, seed = settings.loss.method, settings.seed
    if not isinstance(method, LoKU):
        return lora.init_factors(model.config, settings.lora, seed)
    with progress.phase("measuring which weights matter"):
        return importance.factors(model, texts, method, settings.lora, seed)


def _end(params: Any, settings: SurgerySettings) -> Callable[[Any], Any]:
    """See `Descent.end_of`; of the parameters (or factors) before the first step."""
    applied, low_rank = settings.loss.method.applied, settings.lora
    if applied == 1:
        return lambda params: params
    if low_rank.rank:
        return lambda factors: lora.scaled(factors, applied)
    begun = jax.tree.map(jnp.copy, params)  # a step donates its own
    return lambda params: _applied(begun, params, applied)


@jax.jit
def _applied(begun: Any, params: Any, applied: float) -> Any:
    """Parameters whose change since the beginning is multiplied by `applied`."""

    def of(start, now):
        first, last = (x.astype(jnp.float32) for x in (start, now))
        return (first + applied * (last - first)).astype(now.dtype)

    return jax.tree.map(of, begun, params)


def descend(
    model: Model,
    texts: RoleTexts,
    settings: SurgerySettings,
    directory: str,
    make_callbacks: MakeCallbacks = lambda model_of: (),
    frozen: Model | None = None,
    until: Until | None = None,
) -> Model:
    """The model after the steps; the parameters of `model` are donated.

    Low-rank deltas are added to them at the end.

    Args:
      directory: of the run, for checkpoints and metrics.
      make_callbacks: makes what is called between steps.
      frozen: see `prepare`.
      until: see `loop.train`.

    Raises:
      ValueError: see `prepare`.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    with progress.phase("preparing the steps"):
        ready = prepare(model, texts, settings, directory, frozen)
        data = settings.data
    callbacks = statistics_callbacks(model.config, texts.retained, settings)
    method = settings.loss.method
    inside: Any = InsideSteps(
        ready.rows,
        texts.packers["unlearn"].documents if ready.rows.unlearn else (),
        settings.inside,
        settings.seed,
        (model.config, settings.compute, data.context),
    )
    if isinstance(method, PDU):  # which has no terms inside
        inside = DualSteps(method)
    callbacks = [*inside.of_train(callbacks), *inside.callbacks]
    end = train(
        inside.step(ready.step),
        inside.begin(ready.state),
        devices.batch_stream(
            texts.packers, data.rows, ready.rows, settings.seed, data.stream_weights
        ),
        steps=settings.steps,
        directory=directory,
        settings=settings.loop,
        callbacks=[*callbacks, *make_callbacks(inside.of_state(ready.model_of))],
        title="surgery",
        until=until,
        advice=settings.loss.advice(ready.rows),
        collapsed=inside.of_state(ready.collapsed),
    )
    params = ready.end_of(inside.train_of(end).params)
    if settings.lora.rank:
        params = lora.merge(model.params, params, settings.lora)
    return model.with_params(params)
