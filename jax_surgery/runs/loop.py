# SPDX-License-Identifier: Apache-2.0
"""The training loop that every run shares: progress, metrics, checkpoints, stops."""

import collections
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import tqdm
from etils import epath

from jax_surgery.data.stream import Batch, BatchStream
from jax_surgery.runs.checkpoint import Checkpoints
from jax_surgery.runs.metrics import MetricsWriter
from jax_surgery.runs.settings import Loop
from jax_surgery.surgery.step import TrainState

# Steps whose loss sets the scale that an explosion is measured by.
FIRST_STEPS = 5


class TrainingDiverged(RuntimeError):
    """The loss became NaN or exploded; the message says where and what to change."""


class Interrupted(RuntimeError):
    """The run was asked to stop; what it had is saved."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """Calls `run(step, state)` before step 0, n, 2n, ... (n = `every`; 0: only 0).

    What it returns is the state that training goes on with.
    """

    every: int
    run: Callable[[int, TrainState], TrainState]

    def due(self, step: int) -> bool:
        """Whether the hook runs before this step."""
        return step % self.every == 0 if self.every else step == 0


class _StopOnSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a flag; a second one kills."""

    def __init__(self):
        self.asked = False
        self._old = {}

    def _ask(self, number, frame):
        del frame
        self.asked = True
        signal.signal(number, self._old[number])
        print("\nstopping after this step; again to stop at once", file=sys.stderr)

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(self, *exc):
        for number, old in self._old.items():
            signal.signal(number, old)


class _LossGuard:
    """Raises when the loss is NaN or far beyond where it began."""

    def __init__(self, factor: float):
        self._factor, self._first = factor, []

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Raises `TrainingDiverged` for a bad loss of `step`."""
        advice = (
            "Lower config.optimizer.learning_rate"
            + (
                ", bound the ascent (config.objective.ascent='margin') or lower "
                "config.objective.alpha"
                if "unlearn_ce" in metrics
                else ""
            )
            + "; the last checkpoint is kept."
        )
        bad = [k for k, v in metrics.items() if not math.isfinite(v)]
        if bad:
            raise TrainingDiverged(
                f"{bad[0]} is {metrics[bad[0]]} at step {step}. {advice}"
            )
        size = max(metrics.get(k, 0.0) for k in ("update_ce", "retain_kl"))
        if len(self._first) < FIRST_STEPS:
            self._first.append(size)
        elif size > (limit := self._factor * max(1.0, *self._first)):
            raise TrainingDiverged(
                f"the loss exploded: update_ce or retain_kl reached {size:.4g} nats at "
                f"step {step} (limit {limit:.4g}, config.loop.explode_factor="
                f"{self._factor:g}). {advice}"
            )


def resume_command() -> str:
    """The command line of this process, to be run again as it is."""
    return "python -m jax_surgery.main " + " ".join(sys.argv[1:])


def _real_tokens(batch: Batch) -> int:
    return int((batch["segment_ids_BT"] > 0).sum())


def train(
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    stream: BatchStream,
    *,
    steps: int,
    directory: str,
    settings: Loop,
    hooks: list[Hook],
    title: str,
) -> TrainState:
    """Trains to `steps`, from the newest checkpoint in `directory` if there is one.

    Metrics of a step are fetched after the next one has been dispatched.

    Args:
      step_fn: one step; may donate the state.
      state: the state before the first step.
      stream: batches; its position is part of a checkpoint.
      steps: when to end.
      directory: for checkpoints/, metrics.jsonl and tensorboard/.
      settings: how often, and what stops it.
      hooks: called between steps.
      title: of the progress bar.

    Returns:
      The state after the last step.

    Raises:
      TrainingDiverged: NaN or exploding loss; the last good checkpoint is kept.
      Interrupted: after Ctrl-C; everything is saved.
    """
    writer = MetricsWriter(directory)
    checkpoints = Checkpoints(
        str(epath.Path(directory).absolute() / "checkpoints"), settings.keep
    )
    step = 0
    if checkpoints.latest is not None:
        state, position = checkpoints.restore(state)
        stream.set_state(position)
        step = checkpoints.latest
        print(f"resuming at step {step} of {steps}")
    writer.truncate(step)
    guard = _LossGuard(settings.explode_factor)
    bar = tqdm.tqdm(
        total=steps,
        initial=step,
        desc=title,
        unit="step",
        mininterval=0.5,
        dynamic_ncols=True,
    )
    pending: collections.deque = collections.deque()

    def report() -> None:
        done, metrics, tokens, began = pending.popleft()
        metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
        guard.check(done, metrics)
        metrics["tokens_per_second"] = tokens / (time.perf_counter() - began)
        metrics |= {f"epochs_{role}": value for role, value in stream.epochs.items()}
        if done % settings.log_every == 0 or done == steps:
            writer.write(done, metrics)
            bar.set_postfix(_shown(metrics), refresh=False)
        bar.update(1)

    with _StopOnSignal() as stop:
        try:
            while step < steps:
                for hook in hooks:
                    if hook.due(step):
                        state = hook.run(step, state)
                began = time.perf_counter()
                batch = next(stream)
                state, metrics = step_fn(state, batch)
                step += 1
                pending.append((step, metrics, _real_tokens(batch), began))
                if len(pending) > 1:
                    report()
                save = settings.checkpoint_every and (
                    step % settings.checkpoint_every == 0
                )
                if stop.asked or save or step == steps:
                    while pending:
                        report()
                    checkpoints.save(step, state, stream.get_state())
                if stop.asked and step < steps:
                    raise Interrupted(
                        f"stopped at step {step} of {steps}; saved. Resume with:\n  "
                        f"{resume_command()}"
                    )
        finally:
            checkpoints.close()
            writer.close()
            bar.close()
    return state


def _shown(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress bar says: the loss terms and tokens a second."""
    names = {
        "unlearn_ce": "unlearn",
        "update_ce": "update",
        "retain_kl": "KL",
        "loss": "loss",
    }
    shown = {label: f"{metrics[k]:.3g}" for k, label in names.items() if k in metrics}
    return shown | {"tok/s": f"{metrics['tokens_per_second']:,.0f}"}
