# SPDX-License-Identifier: Apache-2.0
"""Keeps a run to its budget: the weight of the retain term, the best point, the end.

The run minimises  forget + update + factor gamma KL  under KL <= budget on text that it
does not train on. The factor is the constraint's multiplier (dual ascent, multiplicative
because it spans orders of magnitude):

    factor <- factor clip(KL / budget, 1 / FALL, RISE)

Points are running means of the weights (Polyak and Juditsky 1992), since single steps
carry the noise of their batches, which moves held-out text too. A point within the budget is better the nearer
forgetting and learning are to their ends; of points beyond it the one that spends least of
what it may not is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files
from jax_surgery.train.metrics_file import as_lines, read_metrics
from jax_surgery.train.step import TrainState

EVERY = 6  # steps between two measures of held-out text
BEGIN = 6  # the step of the first that moves the factor: before, nothing has moved
RISE, FALL = 3.0, 1.5  # the most that the factor changes at a measure
LEAST, MOST = 1e-3, 1e3  # of the factor
MEMORY = 0.85  # of the running mean of the weights, per step; less in the first steps
# Ends: the mean distance of knowledge tokens to their targets, and the CE of the update.
FORGOTTEN, LEARNED = 0.05, 0.1  # nats
LITTLE = 0.5  # share of the budget below which it is not what stops a run
POINTS = "automatic.jsonl"
NOT_YET = 1e9  # a value that no point has


class Controlled(NamedTuple):
    """What the steps of a controlled run change; saved and restored whole.

    Attributes:
      train: parameters and the optimizer's state.
      mean: running mean of what moves of the parameters.
      factor: on the weight of the retain term.
      value: of the best point, see `value`.
      best: the running mean there.
      at: step of the best point.
    """

    train: TrainState
    mean: Any
    factor: jax.Array
    value: jax.Array
    best: Any
    at: jax.Array

    @property
    def reached(self) -> bool:
        """Whether the best point is at its ends within the budget."""
        return float(self.value) == 0


def begin(train: TrainState, cut: Callable[[Any], Any]) -> Controlled:
    """The state before the first step.

    Args:
      cut: gives what moves of parameters (`Trainable.cut`).
    """
    copy = lambda: jax.tree.map(lambda x: x.copy(), cut(train.params))
    number = lambda start, dtype: jnp.asarray(start, dtype)
    return Controlled(
        train,
        mean=copy(),
        factor=number(1, jnp.float32),
        value=number(NOT_YET, jnp.float32),
        best=copy(),
        at=number(0, jnp.int32),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _mixed(mean: Any, new: Any, step: jax.Array) -> Any:
    """The mean after one more step; the first steps weigh as if they were all."""
    count = step.astype(jnp.float32)
    memory = jnp.minimum(MEMORY, count / (count + 2))
    return jax.tree.map(lambda m, w: memory * m + (1 - memory) * w, mean, new)


def stepped(
    before: Controlled, train: TrainState, cut: Callable[[Any], Any]
) -> Controlled:
    """The state after a step: the running mean takes in its weights, and is donated."""
    mean = _mixed(before.mean, cut(train.params), train.step)
    return before._replace(train=train, mean=mean)


def factor_after(factor: float, kl: float, budget: float) -> float:
    """The factor after a measure of `kl` nats per token."""
    change = min(max(kl / budget, 1 / FALL), RISE)
    return min(max(factor * change, LEAST), MOST)


def value(forget: float, update: float, kl: float, budget: float) -> float:
    """How far a point is from what is asked for, nats; less is better, and 0 is at the
    ends within the budget."""
    beyond = max(kl / budget - 1.0, 0.0)
    short = max(forget - FORGOTTEN, 0.0) + max(update - LEARNED, 0.0)
    return short + 10.0 * beyond


class Controller:
    """Measures the running mean between steps, and acts on it.

    Attributes:
      budget: nats per token.
    """

    def __init__(
        self,
        measures: Callable[[Any], tuple[dict[str, float], float, float]],
        budget: float,
        replaced: Callable[[Any, Any], Any],
        directory: str,
    ):
        """
        Args:
          measures: of parameters the KL on held-out text by kind, how far forgetting is
            from its ends, and the CE of the update, all in nats.
          replaced: puts what moves into parameters (`Trainable.replaced`).
          directory: of the run, for the points.
        """
        self.budget = budget
        self._measures, self._replaced = measures, replaced
        self._file = epath.Path(directory) / POINTS

    def measure(self, step: int, state: Controlled) -> Controlled:
        """The state after a measure at this step: called before step 0, n, 2n, ..."""
        if not step:
            return state
        params = self._replaced(state.mean, state.train.params)
        kinds, forget, update = self._measures(params)
        kl = max(kinds.values())
        factor = float(state.factor)
        now = value(forget, update, kl, self.budget)
        point = {"step": step, "forget": forget, "update": update, "kl": kl}
        point |= {f"kl_{kind}": nats for kind, nats in kinds.items()}
        self._note(point | {"factor": factor, "value": now})
        if now < float(state.value):
            best = jax.tree.map(lambda x: x.copy(), state.mean)
            state = state._replace(best=best, value=_like(state.value, now))
            state = state._replace(at=_like(state.at, step))
        if step >= BEGIN:
            changed = factor_after(factor, kl, self.budget)
            state = state._replace(factor=_like(state.factor, changed))
        return state

    def until(self, step: int, state: Controlled, metrics: Any) -> bool:
        """Whether the run is over: asked after each step."""
        del metrics
        # A measure stands before a step, and is seen after it.
        return step % EVERY == 1 and state.reached

    @property
    def points(self) -> list[dict[str, float]]:
        """What was measured on the way: the trade-off curve."""
        return read_metrics(self._file)

    def _note(self, point: dict[str, float]) -> None:
        if distributed.is_lead():
            earlier = [row for row in self.points if row["step"] < point["step"]]
            files.write_text(self._file, as_lines([*earlier, point]))


def _like(old: jax.Array, new: float) -> jax.Array:
    return jax.device_put(jnp.asarray(new, old.dtype), old.sharding)


def verdict(state: Controlled, points: list[dict[str, float]], budget: float) -> str:
    """Why the run ended where it did, in a sentence or two."""
    best = next((p for p in points if p["step"] == int(state.at)), None)
    if best is None:
        return "Nothing was measured."
    reached = (
        f"step {best['step']:.0f}: tokens to forget stand {best['forget']:.2g} nats "
        f"above their ends, the update costs {best['update']:.2g} nats per token, and "
        f"held-out text has moved by {best['kl']:.2g} of {budget:g} nats per token"
    )
    if state.reached:
        return f"Forgetting and learning reached their ends within the budget at {reached}."
    if best["kl"] > budget:
        return (
            f"The budget is too small for what is asked: the best point is {reached}. "
            "Raise config.retain.budget, or ask for less."
        )
    raised = "config.retain.budget, or config.steps"
    if best["kl"] < LITTLE * budget:  # more of it would change nothing
        raised = "config.optimizer.learning_rate, or config.steps"
    return (
        "The ends were not reached within the budget in the steps that are allowed: "
        f"the best point is {reached}. Raise {raised}."
    )
