# SPDX-License-Identifier: Apache-2.0
"""One training step: loss and gradients in micro-batches, then the optimizer."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL, Trainable
from jax_surgery.optim import lora
from jax_surgery.parallel import host_memory
from jax_surgery.parallel import mesh as meshes

Params = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, Batch], tuple[jax.Array, Metrics]]
# (parameters of what moves -> the model's, what moves, batch) -> metrics and gradients.
Gradients = Callable[[Callable[[Any], Params], Any, Batch], tuple[Metrics, Any]]


class TrainState(NamedTuple):
    """What a step changes: parameters (or factors of low-rank deltas, see `lora`),
    optimizer state, steps taken."""

    params: Any
    opt_state: Any
    step: jax.Array


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, laid out over the mesh like its parameters."""
    opt_state = jax.jit(lambda p: sharding.constrain(optimizer.init(p)))(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))


class Loss(Protocol):
    """What a step minimises; `methods.loss.Loss` is one."""

    def prepare(
        self,
        batch: Batch,
        reference_params: Any,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute,
        average: str,
        /,
    ) -> Batch:
        """Adds to a whole batch what its parts need: what the loss reads of the frozen
        model, where the batch lacks it, and each term's denominator.

        Args:
          average: of retained positions, see `documents.position_weights`.
        """

    def make(
        self,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute,
        trainable: Trainable,
    ) -> LossFn:
        """The pure loss of a batch, or of a micro-batch of such rows.

        Raises:
          ValueError: the loss cannot be computed on such rows or such a model.
        """


def loss_and_gradients(
    loss_fn: LossFn,
    params: Any,
    batch: Batch,
    rows: RoleRows,
    parts: int,
    trainable: Trainable = ALL,
) -> tuple[Metrics, Any]:
    """Metrics and gradients of one batch, accumulated over `parts` micro-batches.

    `loss_fn` is made for a micro-batch's rows (`RoleRows.split`). The batch's
    `denominators` are those of the whole, so the result does not depend on `parts`.
    The gradients are of what moves alone, see `Trainable.part`.
    """
    of_all = jax.value_and_grad(loss_fn, has_aux=True)

    def of_part(params: Any, batch: Batch) -> tuple[Metrics, Any]:
        (_, metrics), grads = of_all(params, batch)
        return metrics, trainable.part(grads)

    if parts == 1:
        return of_part(params, batch)
    shared = batch.shared

    def body(carry, micro):
        found = of_part(params, micro.replace(**shared))
        return jax.tree.map(jnp.add, carry, found), None

    micros = batch.micro_batches(rows, parts)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(lambda: of_part(params, first.replace(**shared)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (metrics, grads), _ = jax.lax.scan(body, zeros, micros)
    return metrics, grads


def make_gradients(
    config: ModelConfig,
    loss: Loss,
    rows: RoleRows,
    compute: decoder.Compute,
    parts: int,
    trainable: Trainable,
) -> Gradients:
    """The gradients of a batch, in `parts` micro-batches (`loss_and_gradients`)."""
    loss_fn = loss.make(config, rows.split(parts), compute, trainable)

    def gradients(attach: Callable[[Any], Params], moving: Any, batch: Batch):
        of_moving = lambda moving, batch: loss_fn(attach(moving), batch)
        return loss_and_gradients(of_moving, moving, batch, rows, parts, trainable)

    return gradients


def make_train_step(
    config: ModelConfig,
    loss: Loss,
    rows: RoleRows,
    optimizer: optax.GradientTransformation,
    *,
    compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
    average: str = "sequences",
    accumulate: int = 1,
    trainable: Trainable = ALL,
    low_rank: lora.LowRank = lora.FULL,
    make_gradients: Callable[..., Gradients] = make_gradients,
):
    """The jitted `step(state, batch, reference_params) -> (state, metrics)`.

    `state` is donated, but for the parameters that never move. Of `reference_params`
    only `output_head.parameters` are needed where the batch has `reference_hidden_RTD`
    (the cached reference). With low-rank deltas they are the base as well, needed
    whole, and the state holds the factors alone, of which those of `trainable` move.
    What is not trainable stays as it is, whatever the optimizer makes of it (weight
    decay, say).

    Args:
      make_gradients: makes what computes the gradients of a step.
    """
    micro = compute
    if accumulate > 1:
        micro = compute.of_micro_batches(meshes.platform())
    of = (config, loss, rows, micro, accumulate, trainable)
    gradients = make_gradients(*of)
    still = () if low_rank.rank else trainable.still(decoder.abstract_params(config))

    options = host_memory.memory_first(meshes.platform())

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
    def step(state: TrainState, batch: Batch, reference_params: Any, held: Params):
        state = state._replace(params=_joined(state.params, held))
        batch = loss.prepare(batch, reference_params, config, rows, compute, average)

        def attach(params: Any) -> Params:
            if low_rank.rank:
                return lora.attach(reference_params, params, low_rank)
            return params

        metrics, grads = gradients(attach, state.params, batch)
        # Of the part, or the zeros around it would be written to be squared: the
        # compiler leaves out what is padded and then cut.
        metrics["gradient_norm"] = optax.tree.norm(grads)
        grads = trainable.whole(grads, state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        if batch.step_factor is not None:
            updates = jax.tree.map(lambda step: batch.step_factor * step, updates)
        params = trainable.moved(state.params, updates)
        moved = _split(params, still)[0]
        after = TrainState(moved, opt_state, state.step + 1)
        return sharding.constrain(after), metrics

    return Step(step, still)


def _split(params: Params, still: Collection[Any]) -> tuple[Params, Params]:
    """The parameters that may move, and those of the paths `still`; each tree has None
    in the place of the other's."""

    def part(wanted: bool) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if (path in still) == wanted else None, params
        )

    return part(False), part(True)


def _joined(moving: Params, held: Params) -> Params:
    """The inverse of `_split`."""
    absent = lambda leaf: leaf is None
    return jax.tree.map(
        lambda a, b: b if a is None else a, moving, held, is_leaf=absent
    )


@dataclasses.dataclass
class Step:
    """A jitted step, called and lowered as one of (state, batch, reference_params).

    Parameters that never move are not donated: they are the same arrays before and
    after, and a frozen reference model may share them.
    """

    _jitted: Any
    _still: Collection[Any]
    _compiled: bool = False

    @property
    def __name__(self) -> str:
        """Of the function that is compiled."""
        return self._jitted.__name__

    def _arguments(self, state: TrainState, batch: Batch, reference_params: Any):
        moving, held = _split(state.params, self._still)
        return (state._replace(params=moving), batch, reference_params, held), held

    def __call__(
        self, state: TrainState, batch: Batch, reference_params: Any
    ) -> tuple[TrainState, Metrics]:
        """The state after a step, and metrics; see `make_train_step`."""
        arguments, held = self._arguments(state, batch, reference_params)
        if not self._compiled:
            # What the compiler frees is given back before the step needs memory.
            self._jitted.lower(*arguments).compile()
            host_memory.release_freed_memory()
            self._compiled = True
        after, metrics = self._jitted(*arguments)
        return after._replace(params=_joined(after.params, held)), metrics

    def lower(self, state: Any, batch: Any, reference_params: Any) -> Any:
        """The step traced and lowered, as `jax.jit`'s `lower`, of arrays or shapes."""
        return self._jitted.lower(*self._arguments(state, batch, reference_params)[0])
