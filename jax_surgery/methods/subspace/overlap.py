# SPDX-License-Identifier: Apache-2.0
"""How much the tasks' subspaces overlap, measured before a run."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.methods.subspace import identify
from jax_surgery.methods.subspace.work import Work
from jax_surgery.optim.linalg import angles
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import progress

RANK = 8  # directions of each task's subspace
# A task that the model is sure of has nearly no gradient at temperature 1.
LOSS = identify.TaskLoss("cross_entropy", 4.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Angles:
    """Mean squared cosines of the principal angles of every two tasks.

    Attributes:
      names: of tasks.
      squares: [tasks, tasks].
    """

    names: list[str]
    squares: np.ndarray

    def as_results(self) -> dict[str, Any]:
        """The angles as results.json holds them."""
        return {"tasks": self.names, "mean_squared_cosine": self.squares.tolist()}

    def similar_to(self, targets: list[str], least: float) -> set[str]:
        """Tasks that overlap a target at least so much."""
        rows = [self.names.index(name) for name in targets]
        most = self.squares[rows].max(0)
        near = {
            name for name, value in zip(self.names, most, strict=True) if value >= least
        }
        return near - set(targets)


def measure(work: Work, names: Iterable[str]) -> Angles:
    """The angles of some groups, of `RANK` singular vectors of each."""
    names = list(names)
    asked = progress.Bar(names, title="angles between tasks", unit="task")
    directions = [_directions(work, name) for name in asked]
    return Angles(names, angles.overlaps(directions))


def _directions(work: Work, name: str) -> dict[str, jax.Array]:
    tasks = work.how.tasks
    documents = work.documents(name)
    packer = Packer(documents, tasks.context, "tokens")
    rows = meshes.round_rows(max(tasks.rows, tasks.rows_retained))
    batch = next(one_pass(packer.pack(work.how.seed, rows), rows))
    batch = batch.text.replace(
        token_weights_BT=-batch.weights_BT, target_log_odds_BT=0 * batch.weights_BT
    )
    task, _ = identify.jitted_task_matrix(
        work.model.params,
        work.model.config,
        batch.place(rows),
        LOSS,
        work.model.compute,
        work.trainable,
    )
    return angles.input_directions(task, RANK)
