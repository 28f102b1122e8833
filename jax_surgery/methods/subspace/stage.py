# SPDX-License-Identifier: Apache-2.0
"""A stage: targets that are removed or added together, and what is retained."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.methods.subspace import rounds
from jax_surgery.methods.subspace.goal import Goal
from jax_surgery.methods.subspace.retained import RetainedText
from jax_surgery.methods.subspace.work import Scores, Work

GRAM_SCHMIDT_RANK = 16  # singular vectors of each task that Gram-Schmidt takes


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Targets that are worked on together.

    Attributes:
      work: the model before the run, and its groups.
      params: as the stage finds them; the model's own in the first. Never given up.
      targets, retained: names of groups.
      similar: of the retained ones, those that are similar to a target.
      before: scores of the model before the run.
      directory: of the stage, for checkpoints and metrics.
      learns: whether the targets are added; else they are removed.
    """

    work: Work
    params: Any
    targets: list[str]
    retained: list[str]
    similar: set[str]
    before: Scores
    directory: str
    learns: bool = False

    @functools.cached_property
    def retained_text(self) -> RetainedText:
        """The text of `retained`, of which there is at least one."""
        return RetainedText(self.work, self.retained, self.similar, self.params)

    @functools.cached_property
    def goal(self) -> Goal:
        """Where its targets are to go."""
        return Goal(
            self.work, self.targets, self.before, self.params, learns=self.learns
        )


def copied(params: Any) -> Any:
    """A copy: a round gives up the parameters that it is given."""
    return jax.tree.map(jnp.copy, params)


def rounds_of(work: Work) -> rounds.Rounds:
    """How a run's settings take rounds."""
    method, chosen = work.how.subspace, work.how.rounds
    return rounds.Rounds(
        work.model.config,
        work.model.compute,
        work.trainable,
        method.task_loss,
        chosen.number,
        chosen.step,
        method.cosine,
        method.order,
        method.adam,
        0 if method.one_shot else GRAM_SCHMIDT_RANK,
    )
