# SPDX-License-Identifier: Apache-2.0
"""Keeps a run to its budget: the size of its steps, the weight of the retain term, the best
point, the end.

The run minimises  forget + update + factor gamma KL  under KL <= budget on text that it
does not train on. The factor is the constraint's multiplier (dual ascent, multiplicative
because it spans orders of magnitude):

    factor <- factor min((KL / budget)^2, RISE)     where KL > budget
    factor <- factor / FALL                         where KL < CALM budget

It falls little: a step whose weight was lowered on the way to the budget goes beyond it.

How large steps are is measured too, since what a step of a given size does to a model
differs by orders of magnitude between models. For small steps KL grows with the square of
the distance: the first step is measured, and the following ones are as long as would
have cost FIRST of the budget; while less than SLOW of it is used they grow.

    rate <- rate clip(sqrt(FIRST budget / KL of one step), 1 / MOST_AT_FIRST, MOST_AT_FIRST)
    rate <- rate min(sqrt(SLOW budget / KL), FASTER)      where KL < SLOW budget

Points are running means of the weights (Polyak and Juditsky 1992), since single steps
carry the noise of their batches, which moves held-out text too. A point within the budget
is better the nearer forgetting and learning are to their ends; of points beyond it the one
that spends least of what it may not is. Where a run ends beyond the budget, the point
between the best one and the last that should cost the budget is measured too.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files
from jax_surgery.train.metrics_file import as_lines, read_metrics
from jax_surgery.train.step import TrainState

EVERY = 6  # steps between two measures of held-out text
RISE, FALL = 3.0, 1.25  # the most that the factor changes at a measure
CALM = 0.25  # share of the budget below which the factor falls
LEAST, MOST = 1e-3, 1e3  # of the factor
# Of the rate: the share of the budget that one step costs in the beginning, and the most
# that the first step changes; the share below which steps grow, and the most they do.
FIRST, MOST_AT_FIRST = 0.015, 100.0
SLOW, FASTER = 0.5, 2.0
BACK = 0.97  # of the way back to the budget, to be within it
MEMORY = 0.85  # of the running mean of the weights, per step; less in the first steps
# Ends: the mean distance of knowledge tokens to their targets, and the CE of the update.
FORGOTTEN, LEARNED = 0.05, 0.1  # nats
LITTLE = 0.5  # share of the budget below which it is not what stops a run
POINTS = "automatic.jsonl"
TINY = 1e-12  # nats, in place of none
NOT_YET = 1e9  # a value that no point has


class Controlled(NamedTuple):
    """What the steps of a controlled run change; saved and restored whole.

    Attributes:
      train: parameters and the optimizer's state.
      mean: running mean of what moves of the parameters.
      factor: on the weight of the retain term.
      rate: factor on the optimizer's steps.
      value: of the best point, see `value`.
      best: the running mean there.
      at: step of the best point.
    """

    train: TrainState
    mean: Any
    factor: jax.Array
    rate: jax.Array
    value: jax.Array
    best: Any
    at: jax.Array

    @property
    def fields(self) -> dict[str, jax.Array]:
        """What it sets of a batch."""
        return {"retain_factor": self.factor, "step_factor": self.rate}

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
        rate=number(1, jnp.float32),
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
    share = kl / budget
    change = min(share**2, RISE) if share > 1 else 1.0 if share >= CALM else 1 / FALL
    return min(max(factor * change, LEAST), MOST)


def first_rate(rate: float, kl: float, budget: float) -> float:
    """The rate after a first step that cost `kl` nats per token."""
    change = math.sqrt(FIRST * budget / max(kl, TINY))
    return rate * min(max(change, 1 / MOST_AT_FIRST), MOST_AT_FIRST)


def rate_after(rate: float, kl: float, budget: float) -> float:
    """The rate after a measure of `kl` nats per token."""
    return rate * min(max(math.sqrt(SLOW * budget / max(kl, TINY)), 1.0), FASTER)


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
        """The state after a measure, which is one after the first step and after each
        `EVERY`; called before each step."""
        if step == 1:
            return self._after_first(state)
        if not step or step % EVERY:
            return state
        return self.end(step, state)

    def _after_first(self, state: Controlled) -> Controlled:
        """The state with the rate that the first step asks for."""
        point = self._point(1, state.train.params, state)
        rate = first_rate(point["rate"], point["kl"], self.budget)
        return state._replace(rate=_like(state.rate, rate))

    def end(self, step: int, state: Controlled) -> Controlled:
        """The state after a measure at this step."""
        params = self._replaced(state.mean, state.train.params)
        point = self._point(step, params, state)
        kl = point["kl"]
        state = _with_best(state, state.mean, point)
        factor = factor_after(point["factor"], kl, self.budget)
        rate = rate_after(point["rate"], kl, self.budget)
        return state._replace(
            factor=_like(state.factor, factor), rate=_like(state.rate, rate)
        )

    def finish(self, step: int, state: Controlled) -> Controlled:
        """The state after the last measure, of which the best point is exported.

        Where the last point is beyond the budget, so is what it has learned since the best
        one. KL grows with about the square of the distance, so that sqrt(KL) says how far
        on the way between them the budget is spent; the point there is measured too.
        """
        best = point_at(self.points, int(state.at))
        ended = self.end(step, state)
        last, root = self.points[-1]["kl"], math.sqrt
        before = best["kl"] if best else 0.0
        if not before < self.budget < last:
            return ended
        share = BACK * (root(self.budget) - root(before)) / (root(last) - root(before))
        between = _between(state.best, state.mean, share)
        params = self._replaced(between, state.train.params)
        point = self._point(step, params, ended, back=share)
        return _with_best(ended, between, point)

    def _point(
        self, step: int, params: Any, state: Controlled, **more: float
    ) -> dict[str, float]:
        """What is measured of parameters, noted among the points with what `more` says."""
        kinds, forget, update = self._measures(params)
        kl = max(kinds.values())
        point = {"step": step, "forget": forget, "update": update, "kl": kl}
        point |= {f"kl_{kind}": nats for kind, nats in kinds.items()}
        point |= {"factor": float(state.factor), "rate": float(state.rate)}
        point["value"] = value(forget, update, kl, self.budget)
        point |= more
        self._note(point)
        return point

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
            there = lambda row: (row["step"], "back" in row)
            earlier = [row for row in self.points if there(row) < there(point)]
            files.write_text(self._file, as_lines([*earlier, point]))


@jax.jit
def _between(one: Any, other: Any, share: jax.Array) -> Any:
    """The point so far on the way from one to the other."""
    return jax.tree.map(lambda a, b: a + share * (b - a), one, other)


def _with_best(state: Controlled, mean: Any, point: dict[str, float]) -> Controlled:
    """The state with this point as the best one, where it is."""
    if point["value"] >= float(state.value):
        return state
    best = jax.tree.map(lambda x: x.copy(), mean)
    now = _like(state.value, point["value"])
    return state._replace(best=best, value=now, at=_like(state.at, point["step"]))


def point_at(
    points: Iterable[Mapping[str, float]], step: int | None
) -> Mapping[str, float] | None:
    """The best point of a step; None where nothing was measured at it.

    A step has two where a run that ended beyond its budget went back to it; points of
    older runs may lack a value.
    """
    there = [point for point in points if point["step"] == step]
    return min(there, key=lambda point: point.get("value", 0.0), default=None)


def _like(old: jax.Array, new: float) -> jax.Array:
    return jax.device_put(jnp.asarray(new, old.dtype), old.sharding)


def verdict(state: Controlled, points: list[dict[str, float]], budget: float) -> str:
    """Why the run ended where it did, in a sentence or two."""
    best = point_at(points, int(state.at))
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
        raised = "config.steps"
    return (
        "The ends were not reached within the budget in the steps that are allowed: "
        f"the best point is {reached}. Raise {raised}."
    )
