# SPDX-License-Identifier: Apache-2.0
"""Keeps a run to its budget: the weight of the retain term, the size of steps, the best
point, the end.

The run minimises  forget + update + factor gamma KL  under KL <= budget on text that it
does not train on. The factor is the constraint's multiplier (dual ascent, multiplicative
because it spans orders of magnitude):

    factor <- factor min((next / budget)^2, RISE)     where next > budget
    factor <- factor / min(budget / next, FALL)       else

where next is the KL of the next measure if it changes as much as since the last one: on the
way to the budget the factor rises before KL is beyond it, and where KL has come to rest
within it the factor falls until all of it is used. It begins with `FIRST` of the one whose
minimum would cost the budget if the loss stayed linear, which it does not: tokens reach
their ends.

The length of steps is measured in the metric of the preconditioner, which is scaled to be
the curvature of the KL along the first direction (`layer_steps`): each costs `STEP` of the
budget there, and less in the end. Elsewhere it costs more, and so the noise of batches does.
Where KL stays beyond the budget although the factor has risen twice (a running mean is late),
it is that noise; where it is far beyond, the KL is not that quadratic. The run then goes
back to where the budget is spent on the way from the best point, and its steps are shorter
from there on.

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
RISE, FALL = 3.0, 1.5  # the most that the factor changes at a measure
STEP = 0.0075  # of the budget, that a step costs
FIRST = 0.017  # of the factor whose minimum costs the budget
LEAST, MOST = 1e-5, 1e5  # of the factor
TOO_FAR = 3.0  # budgets, from which on the run goes back at once
STAYS = 0.8  # of the KL two measures before, above which it has not fallen
SHORTER = 0.5  # steps after either
BACK = 0.97  # of the way back to the budget, to be within it
MEMORY = 0.85  # of the running mean of the weights, per step; less in the first steps
# Ends: the mean distance of knowledge tokens to theirs, from either side, and the CE of the update.
# Nearer to them facts beside those of the job are lost, which the KL does not show.
FORGOTTEN, LEARNED = 0.2, 0.35  # nats
LESS = 0.85  # of the KL of a point at its ends, which the run then tries to do with
PATIENCE = 3  # measures without a better point, after which a run at its ends is over
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
      rate: factor on the length of steps.
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
    def reached(self) -> bool:
        """Whether the best point is at its ends within the budget."""
        return float(self.value) <= 0


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


def first_factor(gain: float, weight: float, budget: float) -> float:
    """The factor that a run begins with.

    Args:
      gain: fall of the loss along the Newton direction, nats (`layer_steps.Measured`).
      weight: of the KL in the loss, without the factor.
    """
    found = FIRST * math.sqrt(gain / (2 * budget)) / weight
    return min(max(found, LEAST), MOST)


def factor_after(factor: float, kl: float, last: float, budget: float) -> float:
    """The factor after a measure of `kl` nats per token, where the `last` one was of
    that point; 0 is of the start."""
    share = max(2 * kl - last, TINY) / budget
    change = min(share**2, RISE) if share > 1 else max(share, 1 / FALL)
    return min(max(factor * change, LEAST), MOST)


def value(forget: float, update: float, kl: float, budget: float) -> float:
    """How far a point is from what is asked for, nats; less is better.

    At the ends within the budget it is the share of the budget that is left, below 0."""
    missing = short(forget, update) + 10.0 * max(kl / budget - 1.0, 0.0)
    return missing or kl / budget - 1.0


def short(forget: float, update: float) -> float:
    """How far a point is from its ends, nats."""
    return max(forget - FORGOTTEN, 0.0) + max(update - LEARNED, 0.0)


class Controller:
    """Measures the running mean between steps, and acts on it.

    Attributes:
      budget: nats per token.
      weight: of the retain term in the loss, without the factor.
    """

    def __init__(
        self,
        measures: Callable[[Any], tuple[dict[str, float], float, float]],
        budget: float,
        replaced: Callable[[Any, Any], Any],
        directory: str,
        weight: float,
    ):
        """
        Args:
          measures: of parameters the KL on held-out text by kind, how far forgetting is
            from its ends, and the CE of the update, all in nats.
          replaced: puts what moves into parameters (`Trainable.replaced`).
          directory: of the run, for the points.
          weight: see the class.
        """
        self.budget, self.weight = budget, weight
        self._measures, self._replaced = measures, replaced
        self._file = epath.Path(directory) / POINTS

    def begin(self, state: Controlled, gain: float) -> Controlled:
        """The state with the factor that the first measure asks for.

        Args:
          gain: see `first_factor`; 0, where nothing is to be gained, leaves it.
        """
        if gain <= 0:
            return state
        factor = first_factor(gain, self.weight, self.budget)
        return state._replace(factor=_like(state.factor, factor))

    def fields(self, state: Controlled) -> dict[str, jax.Array]:
        """What a state sets of a batch."""
        length = state.rate * math.sqrt(2 * STEP * self.budget)
        return {"retain_factor": state.factor, "step_factor": length}

    def measure(self, step: int, state: Controlled) -> Controlled:
        """The state after a measure, which is one after each `EVERY` steps; called
        before each step."""
        if not step or step % EVERY:
            return state
        return self.end(step, state)

    def end(self, step: int, state: Controlled) -> Controlled:
        """The state after a measure at this step."""
        params = self._replaced(state.mean, state.train.params)
        before = self._earlier(step, state)
        point = self._point(step, params, state)
        kl, factor = point["kl"], point["factor"]
        if kl > TOO_FAR * self.budget:
            return self._back(state, kl, factor * RISE)
        state = _with_best(state, state.mean, point)
        at_ends = not short(point["forget"], point["update"])
        if kl > self.budget and at_ends and not state.reached:
            state = self._nearer(step, state, kl)
        if min(kl, *before) > self.budget and kl > STAYS * before[0]:
            return self._back(state, kl, factor)
        factor = factor_after(factor, kl, before[1], self._aim(state))
        return state._replace(factor=_like(state.factor, factor))

    def _aim(self, state: Controlled) -> float:
        """The KL that the next points should cost: that of the budget, or less than that of
        the best point where it is at its ends."""
        if not state.reached:
            return self.budget
        return LESS * self.budget * (1.0 + float(state.value))

    def _earlier(self, step: int, state: Controlled) -> tuple[float, float]:
        """KL at the last two measures before a step, where the run went back after one of
        them of where it went; 0 is of the start."""
        earlier = [p for p in self.points if p["step"] < step and "back" not in p]
        rates = [*(p["rate"] for p in earlier[1:]), float(state.rate)]
        went_back = [p["rate"] != r for p, r in zip(earlier, rates, strict=False)]
        found = [
            BACK**2 * self.budget if back else p["kl"]
            for p, back in zip(earlier, went_back, strict=True)
        ]
        before, last = [0.0, 0.0, *found][-2:]
        return before, last

    def _back(self, state: Controlled, kl: float, factor: float) -> Controlled:
        """The state on the way back, with shorter steps and without momentum.

        Args:
          kl: of the mean, beyond the budget.
          factor: from there on.
        """
        part = _between(state.best, state.mean, self._share(state, kl))
        optimizer, zeros = state.train.opt_state, jnp.zeros_like
        if velocity := getattr(optimizer, "velocity", ()):
            optimizer = optimizer._replace(velocity=jax.tree.map(zeros, velocity))
        params = self._replaced(part, state.train.params)
        return state._replace(
            train=state.train._replace(params=params, opt_state=optimizer),
            mean=part,
            factor=_like(state.factor, factor),
            rate=_like(state.rate, float(state.rate) * SHORTER),
        )

    def _share(self, state: Controlled, kl: float) -> float:
        """How far from the best point towards the mean the budget is spent, a little
        less; 0 where it is at the best one.

        KL grows with about the square of the distance, so that its root says how far.

        Args:
          kl: of the mean, beyond the budget.
        """
        best, root = point_at(self.points, int(state.at)), math.sqrt
        before = best["kl"] if best else 0.0
        if not before < self.budget < kl:
            return 0.0
        return BACK * (root(self.budget) - root(before)) / (root(kl) - root(before))

    def finish(self, step: int, state: Controlled) -> Controlled:
        """The state after the last measure, of which the best point is exported.

        Where the last point is beyond the budget, so is what it has learned since the best
        one, and the point on the way between them is measured too.
        """
        ended = self.end(step, state)
        nearer = self._nearer(step, state, self.points[-1]["kl"])
        if float(nearer.value) >= float(ended.value):
            return ended
        return ended._replace(value=nearer.value, best=nearer.best, at=nearer.at)

    def _nearer(self, step: int, state: Controlled, kl: float) -> Controlled:
        """The state after a measure of the point between its best one and its mean that
        should cost the budget, where that is the best one now.

        Args:
          kl: of the mean.
        """
        if not (share := self._share(state, kl)):
            return state
        between = _between(state.best, state.mean, share)
        params = self._replaced(between, state.train.params)
        return _with_best(state, between, self._point(step, params, state, back=share))

    def _point(
        self, step: int, params: Any, state: Controlled, **more: float
    ) -> dict[str, float]:
        """What is measured of parameters, noted among the points with what `more` says."""
        kinds, forget, update = self._measures(params)
        finite = lambda nats: nats if math.isfinite(nats) else NOT_YET
        kinds = {kind: finite(nats) for kind, nats in kinds.items()}
        forget, update, kl = finite(forget), finite(update), max(kinds.values())
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
        waited = step - 1 - int(state.at) >= PATIENCE * EVERY
        return step % EVERY == 1 and state.reached and waited

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
        f"from their ends, the update costs {best['update']:.2g} nats per token, and "
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
