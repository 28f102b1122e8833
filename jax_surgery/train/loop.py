# SPDX-License-Identifier: Apache-2.0
"""The training loop that every run shares: progress, metrics, checkpoints, stops."""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.config import at_least
from jax_surgery.data.batch import Batch
from jax_surgery.data.stream import BatchStream
from jax_surgery.parallel import host_memory, preemption, progress
from jax_surgery.train.checkpoint import Checkpoints
from jax_surgery.train.metrics_file import MetricsWriter

State = Any  # a pytree of arrays; has what a step changes
Metrics = dict[str, Any]
# Of a step, the state after it, and its metrics: whether the run ends early.
Until = Callable[[int, State, dict[str, float]], bool]

# Steps whose loss sets the scale that an explosion is measured by.
FIRST_STEPS = 5
EXPLODED = 20.0  # the loss, as a multiple of its first values, where a run stops
# Terms that must stay small; the unlearn term is meant to grow.
BOUNDED_TERMS = ("update_ce", "retain_kl", "retain_ce", "retain_loss")
# Nats above its first values from which on a term makes the loop ask whether the model
# has collapsed, and the factor of the term between asking and asking again.
SUSPECT, SUSPECT_AGAIN = 1.0, 1.5
# The advice to a run that diverges, unless its caller gives another.
LOWER_RATE = "Lower config.optimizer.learning_rate"


@dataclasses.dataclass(frozen=True)
class Loop:
    """How often a run logs, evaluates and saves, and what stops it."""

    log_every: int  # steps
    evaluate_every: int  # steps; 0 only before and after
    evaluate_questions: int  # a group, in evaluations during the run
    checkpoint_every: int  # steps; 0 only at the end and when interrupted
    keep: int  # checkpoints

    def __post_init__(self):
        every = ("evaluate_every", "evaluate_questions", "checkpoint_every")
        at_least(0, self, "config.loop", *every)
        at_least(1, self, "config.loop", "log_every", "keep")


class TrainingDiverged(RuntimeError):
    """The loss became NaN or exploded; the message says where and what to change."""


class Interrupted(RuntimeError):
    """The run was asked to stop; the message says what is saved."""


@dataclasses.dataclass(frozen=True)
class Callback:
    """Calls `run(step, state)` before step 0, n, 2n, ... (n = `every`; 0: only 0).

    Training continues with the state that it returns.
    """

    every: int
    run: Callable[[int, State], State]

    def due(self, step: int) -> bool:
        """Whether the callback runs before this step."""
        return step % self.every == 0 if self.every else step == 0


class _LossGuard:
    """Raises when a metric is not finite or the loss is far above its first values."""

    def __init__(self, checkpoint: Callable[[], str], advice: str):
        """`checkpoint` says which one there is, and `advice` what to change."""
        self._checkpoint, self._advice = checkpoint, advice
        self.first: list[float] = []
        self._suspected = 0.0  # the term's value when it was last suspect

    def diverged(self, what: str) -> TrainingDiverged:
        """The error: what happened, what to change, which checkpoint there is."""
        return TrainingDiverged(
            f"{what}. {self._advice}, and start again in a new --workdir. "
            f"{self._checkpoint()}"
        )

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Raises `TrainingDiverged` for bad metrics of `step`."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise self.diverged(f"{name} is {value} at step {step}")
        terms = [name for name in BOUNDED_TERMS if name in metrics] or ["loss"]
        worst = max(terms, key=lambda name: metrics[name])
        if len(self.first) < FIRST_STEPS:
            self.first.append(metrics[worst])
        elif metrics[worst] > (limit := EXPLODED * max(1.0, *self.first)):
            raise self.diverged(
                f"the loss exploded: {worst} is {metrics[worst]:.4g} at step {step}, "
                f"over {limit:.4g} ({EXPLODED:g} times its first values)"
            )

    def suspects(self, metrics: dict[str, float]) -> bool:
        """Whether a term rose so far that the model may have collapsed; seldom true."""
        terms = [metrics[name] for name in BOUNDED_TERMS if name in metrics]
        if len(self.first) < FIRST_STEPS or not terms:
            return False
        worst = max(terms)
        if worst < max(max(self.first) + SUSPECT, SUSPECT_AGAIN * self._suspected):
            return False
        self._suspected = worst
        return True

    def check_state(self, step: int, state: State) -> None:
        """Raises `TrainingDiverged` where numbers to be saved are not finite."""
        if not bool(_all_finite(state)):
            raise self.diverged(f"the update of step {step} is not finite")


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    finite = jnp.array(True)
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.floating):
            finite &= jnp.isfinite(x).all()
    return finite


class _Reports:
    """Fetches metrics from the device one step late; checks, writes and shows them."""

    def __init__(self, writer: MetricsWriter, guard: _LossGuard, bar, every: int):
        self._writer, self._guard, self._bar = writer, guard, bar
        self._every, self._end = every, bar.total
        self._pending: collections.deque = collections.deque()
        self._finished = 0.0  # when the last step reported was done
        self._tokens, self._seconds = 0, 0.0  # since metrics were last written
        self.latest: dict[str, float] = {}

    def add(self, step: int, metrics: Metrics, tokens: int, began: float, epochs):
        """Takes a dispatched step, and reports the one before it."""
        self._pending.append((step, metrics, tokens, began, dict(epochs)))
        self.report(leave=1)

    def report(self, leave: int = 0) -> None:
        """Reports what is pending but the newest `leave` steps."""
        while len(self._pending) > leave:
            step, metrics, tokens, began, epochs = self._pending.popleft()
            metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
            self._guard.check(step, metrics)
            # A step is dispatched while the one before it still computes.
            began, self._finished = max(began, self._finished), time.perf_counter()
            self._seconds += self._finished - began
            self._tokens += tokens
            self.latest = metrics
            if step % self._every == 0 or step == self._end:
                self._write(step, metrics, epochs)
            self._bar.update(1)

    def _write(self, step: int, metrics: Metrics, epochs: dict[str, float]) -> None:
        metrics = metrics | {"tokens_per_second": self._tokens / self._seconds}
        self._tokens, self._seconds = 0, 0.0
        metrics |= {f"epochs_{role}": value for role, value in epochs.items()}
        self._writer.write(step, metrics)
        self._bar.set_postfix(_shown(metrics), refresh=False)


def train(
    step_fn: Callable[[State, Batch], tuple[State, Metrics]],
    state: State,
    stream: BatchStream,
    *,
    steps: int,
    directory: str,
    settings: Loop,
    callbacks: Sequence[Callback] = (),
    title: str,
    until: Until | None = None,
    save_last: bool = True,
    advice: str = LOWER_RATE,
    collapsed: Callable[[State], str] | None = None,
) -> State:
    """Trains to `steps`, from the newest checkpoint in `directory` if there is one.

    Metrics of a step are fetched after the next one has been dispatched. A callback that
    changes the state runs again when a run is resumed at its step, so a resumed run is
    bit-equal to an uninterrupted one.

    Args:
      step_fn: one step; may donate the state. Its metrics are scalars, among them
        `loss` (or the terms that `_LossGuard` watches), in nats.
      state: the state before the first step, a pytree of arrays.
      stream: batches; its position is part of a checkpoint.
      steps: the last step.
      directory: for checkpoints/, metrics.jsonl and tensorboard/; local or gs://.
      settings: see `Loop`.
      callbacks: called between steps.
      title: of the progress bar.
      until: asked after each step, with its metrics; the run ends early where true.
      save_last: whether the state after the last step is saved; without it a resumed
        run takes the steps again that were taken since the last checkpoint.
      advice: what to change where the run diverges, the first part of a sentence.
      collapsed: says what is wrong with a model that no longer knows what it is to
        retain, the first part of a sentence, or "" (see `health.Health`). Asked before
        every save, after the last step, and where a term of the loss rises.

    Returns:
      The state after the last step.

    Raises:
      TrainingDiverged: NaN or exploding loss, or a model that collapsed; the last good
        checkpoint is kept.
      Interrupted: after Ctrl-C or SIGTERM, on all processes at the same step;
        everything is saved.
      ValueError: the checkpoint is of other data (see `BatchStream.set_state`).
    """
    folder = epath.Path(directory)
    checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
    guard = _LossGuard(checkpoints.describe, advice)
    step, ended, first = 0, False, True
    with progress.phase("looking for a checkpoint"):
        restored = checkpoints.restore(state)
    if restored:
        step, state, loop_state = restored
        stream.set_state(loop_state["stream"])
        guard.first = list(loop_state["first_losses"])
        ended = loop_state.get("ended", False)
        print(f"{title}: resuming at step {step} of {steps}")
    writer = MetricsWriter(folder, after=step)
    bar = progress.Bar(title=title, unit="step", total=steps, initial=step, keep=True)
    reports = _Reports(writer, guard, bar, settings.log_every)

    def check() -> None:
        reports.report()
        guard.check_state(step, state)
        with progress.phase("checking what the model still knows"):
            problem = collapsed(state) if collapsed else ""
        if problem:
            raise guard.diverged(f"{problem} (step {step})")

    def save(final: bool) -> None:
        check()
        loop_state = {"stream": stream.get_state(), "first_losses": guard.first}
        # Metrics first: those of a step that is saved are never lost.
        writer.flush()
        with progress.phase("saving a checkpoint"):
            checkpoints.save(step, state, loop_state | {"ended": ended}, last=final)

    with preemption.listening(), writer, checkpoints, bar:
        while step < steps and not ended:
            due = [callback for callback in callbacks if callback.due(step)]
            if due:
                reports.report()
            try:
                state = _called(due, step, state)
            except preemption.Stopped:
                # The callback runs again when the run is resumed at this step.
                if step:
                    save(final=True)
                raise _stopped(step, steps) from None
            began = time.perf_counter()
            batch = next(stream)
            with (
                progress.phase("compiling the step")
                if first
                else contextlib.nullcontext()
            ):
                state, metrics = step_fn(state, batch)
                if first:
                    jax.block_until_ready(state)
            step += 1
            reports.add(step, metrics, stream.real_tokens, began, stream.epochs)
            if first:  # it was compiled
                first = False
                host_memory.release_freed_memory()
            if collapsed and guard.suspects(reports.latest):
                check()
            if until is not None:
                reports.report()
                ended = until(step, state, reports.latest)
            last = ended or step == steps
            stop = preemption.reached()
            if stop or _due(step, settings.checkpoint_every) or (last and save_last):
                save(final=stop or last)
            elif last:
                check()
            if stop:
                raise _stopped(step, steps)
    return state


def _called(callbacks: Sequence[Callback], step: int, state: State) -> State:
    """The state after callbacks; only before the first of them has changed it may a
    signal stop the run."""
    for place, callback in enumerate(callbacks):
        first = preemption.interruptible() if not place else contextlib.nullcontext()
        with first, progress.phase(f"preparing step {step + 1}"):
            state = callback.run(step, state)
    return state


def _stopped(step: int, steps: int) -> Interrupted:
    if not step:
        return Interrupted(f"stopped before the first of {steps} steps.")
    return Interrupted(f"stopped at step {step} of {steps}, which is saved.")


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _shown(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress bar says: the loss terms and tokens a second."""
    names = {
        "unlearn_ce": "unlearn",
        "update_ce": "update",
        "retain_kl": "KL",
        "retain_ce": "retain",
        "retain_loss": "retain",
        "pushed_down": "to forget",
        "pushed_up": "to know",
        "loss": "loss",
    }
    shown = {label: f"{metrics[k]:.3g}" for k, label in names.items() if k in metrics}
    return shown | {"tok/s": f"{metrics['tokens_per_second']:,.0f}"}
