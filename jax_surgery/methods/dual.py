# SPDX-License-Identifier: Apache-2.0
"""The dual variable of a method that holds the retain term to a bound (`methods.pdu`).

It lies on the devices, is a factor on the weight of the retain term (`gamma` is 1 in what
is published), and is saved and restored with the run's state.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.methods.pdu import PDU
from jax_surgery.train.loop import Callback
from jax_surgery.train.step import TrainState

T = TypeVar("T")


class WithDual(NamedTuple):
    """What the steps change: parameters and the optimizer's state, and the factor."""

    train: TrainState
    factor: jax.Array


def moved(method: PDU, factor: Any, loss: Any, step: Any) -> jax.Array:
    """The dual variable after a step.

    Args:
      factor: before it.
      loss: of the retained text in it, nats per token.
      step: how many steps there are with it.
    """
    after = jnp.maximum(0.0, factor + method.eta * (loss - method.epsilon))
    return jnp.where(step > method.warmup, after, factor)


@dataclasses.dataclass(frozen=True)
class DualSteps:
    """What a descent takes in the place of its own steps (see `inside.steps.InsideSteps`).

    Attributes:
      method: whose constraint it is.
    """

    method: PDU

    callbacks = ()

    def begin(self, train: TrainState) -> WithDual:
        """The state before the first step."""
        return WithDual(train, jnp.float32(self.method.start))

    @staticmethod
    def train_of(state: WithDual) -> TrainState:
        """What of a state is trained."""
        return state.train

    def of_state(self, task: Callable[[TrainState], T]) -> Callable[[WithDual], T]:
        """What is done with a state of training, done with one of the run."""
        return lambda state: task(state.train)

    def of_train(self, callbacks: Iterable[Callback]) -> list[Callback]:
        """Callbacks of states of training, as ones of the run's."""

        def wrapped(callback: Callback) -> Callback:
            def inner(step: int, state: WithDual) -> WithDual:
                return state._replace(train=callback.run(step, state.train))

            return Callback(callback.every, inner)

        return [wrapped(callback) for callback in callbacks]

    def step(
        self, one_step: Callable[..., tuple[TrainState, Any]]
    ) -> Callable[[WithDual, Batch], tuple[WithDual, Any]]:
        """A step of the run's state, made of one of training, which donates it."""

        def inner(state: WithDual, batch: Batch) -> tuple[WithDual, Any]:
            train, metrics = one_step(state.train, batch, retain_factor=state.factor)
            of = (state.factor, metrics["retain_ce"], train.step)
            metrics = metrics | {"retain_factor": state.factor}
            return WithDual(train, moved(self.method, *of)), metrics

        return inner
