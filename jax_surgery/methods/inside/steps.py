# SPDX-License-Identifier: Apache-2.0
"""Steps of a run whose unlearning reaches inside the model."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.tokens import Document
from jax_surgery.methods.inside import relearned, silenced
from jax_surgery.methods.inside.settings import Inside
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.train.loop import Callback
from jax_surgery.train.step import TrainState

T = TypeVar("T")


class WithCopy(NamedTuple):
    """What the steps change where copies relearn; saved and restored whole.

    Attributes:
      train: parameters and the optimizer's state.
      shift: what the newest copy's training changed of the layers.
    """

    train: TrainState
    shift: Any


@dataclasses.dataclass(eq=False)
class InsideSteps:
    """What a descent takes in the place of its own steps: the same where nothing is unlearned
    inside, and else with what each step reads beside the text.

    Attributes:
      rows: of a batch.
      documents: to unlearn, for the copies.
      inside: how far unlearning reaches inside the model.
      seed: of the run.
      of_model: its config, its dtypes, and the tokens of a row.
      number: of the step that is next.
    """

    rows: RoleRows
    documents: Sequence[Document]
    inside: Inside
    seed: int
    of_model: tuple[ModelConfig, Compute, int]
    number: int = 0

    def begin(self, train: TrainState) -> Any:
        """The state before the first step; a `WithCopy` where there are copies."""
        if not self.inside.copies:
            return train
        return WithCopy(train, relearned.no_change(train.params))

    @staticmethod
    def train_of(state: Any) -> TrainState:
        """What of a state is trained."""
        return state.train if isinstance(state, WithCopy) else state

    def of_state(self, task: Callable[[TrainState], T]) -> Callable[[Any], T]:
        """What is done with a state of training, done with one of the run."""
        return lambda state: task(self.train_of(state))

    def of_train(self, callbacks: Iterable[Callback]) -> list[Callback]:
        """Callbacks of states of training, as ones of the run's."""

        def wrapped(callback: Callback) -> Callback:
            def inner(step: int, state: Any) -> Any:
                train = callback.run(step, self.train_of(state))
                if isinstance(state, WithCopy):
                    return state._replace(train=train)
                return train

            return Callback(callback.every, inner)

        return [wrapped(callback) for callback in callbacks]

    @property
    def callbacks(self) -> list[Callback]:
        """Count the steps, and make the copies."""

        def count(step: int, state: Any) -> Any:
            self.number = step
            return state

        def relearn(step: int, state: WithCopy) -> WithCopy:
            how = (self.documents, self.inside, self.seed, step, *self.of_model)
            return state._replace(shift=relearned.change(state.train.params, *how))

        if not self.inside.is_used:
            return []
        copies = self.inside.copies
        return [Callback(1, count), *([Callback(copies, relearn)] if copies else [])]

    def fields(self, state: Any) -> dict[str, Any]:
        """What the next step reads beside the text, drawn from its number and the seed
        alone: the same in every process, and in a run that is resumed."""
        rng = np.random.default_rng([self.seed, self.number, 0])
        inside, found = self.inside, {}
        by_copy = bool(inside.copies) and bool(rng.random() < inside.copy_share)
        if inside.copies:
            found["shift"] = state.shift
            found["shift_factor"] = np.float32(by_copy)
        if inside.silenced:
            # A copy is read as it is.
            share = 0.0 if by_copy else inside.silenced
            unlearn_B = self.rows.holds("unlearn", self.rows.total)
            layers = self.of_model[0].num_layers
            found["gates_BLP"] = silenced.gates(rng, unlearn_B, layers, share)
        return found

    def step(
        self, one_step: Callable[..., tuple[TrainState, Any]]
    ) -> Callable[[Any, Batch], tuple[Any, Any]]:
        """A step of the run's state, made of one of training, which donates it."""

        def inner(state: Any, batch: Batch) -> tuple[Any, Any]:
            fields = self.fields(state)
            train, metrics = one_step(self.train_of(state), batch, **fields)
            if isinstance(state, WithCopy):
                return state._replace(train=train), metrics
            return train, metrics

        return inner
