# SPDX-License-Identifier: Apache-2.0
"""How much the tasks' subspaces overlap, measured in the model as it came."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.methods.subspace import identify
from jax_surgery.methods.subspace.subject import Scores, Subject
from jax_surgery.optim.linalg import angles
from jax_surgery.parallel import mesh as meshes

# A task the model is sure of has no gradient at temperature 1.
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
        """As results.json has them."""
        return {"tasks": self.names, "mean_squared_cosine": self.squares.tolist()}

    def similar_to(self, targets: list[str], least: float) -> set[str]:
        """Tasks that overlap a target at least so much."""
        rows = [self.names.index(name) for name in targets]
        most = self.squares[rows].max(0)
        near = {
            name for name, value in zip(self.names, most, strict=True) if value >= least
        }
        return near - set(targets)


def measure(subject: Subject, before: Scores) -> Angles | None:
    """The angles of all tasks; None where the config wants none."""
    settings = subject.settings
    rank = settings.report.angles
    if not rank:
        return None
    directions = [_directions(subject, name, rank) for name in before]
    return Angles(list(before), angles.overlaps(directions))


def _directions(subject: Subject, name: str, rank: int) -> dict[str, jax.Array]:
    settings = subject.settings
    documents = subject.documents(name, settings.tasks.records)
    packer = Packer(documents, settings.tasks.context, "tokens")
    rows = meshes.round_rows(max(settings.tasks.rows, settings.tasks.rows_kept))
    batch, _ = next(one_pass(packer.pack(settings.seed), rows))
    batch = batch.text.replace(
        token_weights_BT=-batch.weights_BT, target_log_odds_BT=0 * batch.weights_BT
    )
    task, _ = _matrix(
        subject.params,
        subject.config,
        batch.place(rows),
        LOSS,
        settings.compute,
        settings.trainable(subject.config),
    )
    return angles.input_directions(task, rank)


_matrix = jax.jit(identify.task_matrix, static_argnums=(1, 3, 4, 5))
