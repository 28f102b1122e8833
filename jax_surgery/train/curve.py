# SPDX-License-Identifier: Apache-2.0
"""Accuracies over the steps of a run, in DIR/curve.jsonl."""

from collections.abc import Callable
from typing import Any

from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files
from jax_surgery.train.loop import Callback, State
from jax_surgery.train.metrics_file import as_lines, read_metrics

CURVE = "curve.jsonl"


def watch(
    ask: Callable[[State], dict[str, Any]],
    every: int,
    directory: str,
    then: Callable[[int, State, dict[str, float]], None] | None = None,
) -> list[Callback]:
    """Asks questions during a run, and appends the accuracies to the file; [] with `every` 0.

    Args:
      ask: accuracies by group (see `multiple_choice.summarise`) of a state.
      every: steps between.
      directory: of the run.
      then: is told each step, its state, and these accuracies.
    """
    if not every:
        return []
    file = epath.Path(directory) / CURVE

    def run(step: int, state: State) -> State:
        scores = {group: entry["accuracy"] for group, entry in ask(state).items()}
        if then:
            then(step, state, scores)
        point = {"step": step} | scores
        if distributed.is_lead():
            earlier = [row for row in read_curve(directory) if row["step"] < step]
            files.write_text(file, as_lines([*earlier, point]))
        return state

    return [Callback(every, run)]


def read_curve(directory: str) -> list[dict[str, float]]:
    """The accuracies over steps of a run so far."""
    return read_metrics(epath.Path(directory) / CURVE)
