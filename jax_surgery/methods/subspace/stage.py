# SPDX-License-Identifier: Apache-2.0
"""A stage: targets that are removed or added together, what is retained, and the goal."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.method import MEND
from jax_surgery.methods.subspace.text import (
    RetainedText,
    WeightedBatches,
    overwritten,
)
from jax_surgery.methods.subspace.work import Scores, Work
from jax_surgery.metrics.task_scores import removed
from jax_surgery.metrics.tokens import BATCH_ROWS, score_tokens
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train.health import Health
from jax_surgery.train.loop import Callback

TAKEN_OVER = 0.95  # of the tokens that are to take the place of others
# Alphas that are sought: the largest, of one shot, and how finely.
LARGEST, FINEST = 4.0, 2**-10


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
      callbacks: called between its rounds, beside its own.
    """

    work: Work
    params: Any
    targets: list[str]
    retained: list[str]
    similar: set[str]
    before: Scores
    directory: str
    callbacks: Sequence[Callback] = ()

    @property
    def learns(self) -> bool:
        """Whether the targets are added; else they are removed."""
        return self.work.how.learns

    @property
    def mend(self) -> int:
        """Passes at most that restore lost retained answers."""
        if (chosen := self.work.how.subspace.mend) >= 0:
            return chosen
        return 0 if self.work.written else MEND

    @functools.cached_property
    def retained_text(self) -> RetainedText:
        """The text of `retained`, of which there is at least one."""
        return RetainedText(self.work, self.retained, self.similar, self.params)

    @functools.cached_property
    def health(self) -> Health | None:
        """What a model must still know of the retained text; it scores `params`."""
        if not self.retained:
            return None
        model = self.work.model.with_params(self.params)
        return Health(model, self.retained_text.packer)

    def collapsed(self, params: Any) -> str:
        """What is wrong with a model that no longer knows the retained text, the first
        part of a sentence; "" where it does, or nothing is retained."""
        model = self.work.model.with_params(params)
        return self.health.problem(model) if self.health else ""

    @functools.cached_property
    def goal(self) -> "Goal":
        """Where its targets are to go."""
        return Goal(self)

    def batches(self, lost: Sequence[int] | np.ndarray = ()) -> WeightedBatches:
        """Batches of the targets' text and of retained text, which is guarded.

        Args:
          lost: places in `retained_text` of what is guarded as much as all else.
        """
        guarded = self.retained and self.work.how.subspace.guard
        return WeightedBatches(
            self.work,
            self.targets,
            learn=self.learns,
            retained=self.retained_text if guarded else None,
            lost=lost,
        )


def copied(params: Any) -> Any:
    """A copy: a round gives up the parameters that it is given."""
    return jax.tree.map(jnp.copy, params)


class Goal:
    """Whether every target is removed, or learned, as far as `rounds.stop`.

    Of targets whose tokens have ends of their own, what is removed is the share of the
    nats by which they were above them. Of groups that are scored by the accuracy of
    answers it asks the text that identifies them, not what they are tested on; other
    scorers have their test alone.
    """

    def __init__(self, stage: Stage):
        """Scores the targets' own text at the parameters that the stage finds."""
        self._stage, work = stage, stage.work
        self._ended = {
            name: (*self._packed(work.documents(name)), np.concatenate(ends))
            for name in stage.targets
            if (ends := work.ends(name)) and not stage.learns
        }
        self._above = {
            name: self._nats_above(stage.params, name) for name in self._ended
        }
        self._texts = {
            name: self._packed(work.documents(name))
            for name in stage.targets
            if work.texts[name].group.scorer == "accuracy" and name not in self._ended
        }
        self._before = {
            name: self._accuracy(stage.params, text)
            for name, text in self._texts.items()
        }
        self._others = []
        if work.how.subspace.overwrite and not stage.learns:
            self._others = [
                self._packed(overwritten(work, name)) for name in stage.targets
            ]

    def _packed(self, documents: Sequence[Document]) -> tuple[Packer, Batch]:
        """Text that is asked after every round, packed once."""
        packer = self._stage.work.packer(documents)
        return packer, packer.pack()

    def _nats_above(self, params: Any, name: str, most: float = math.inf) -> float:
        """How far a target's tokens are above the ends that were measured, together, nats;
        where it is more than `most`, only as much as makes that certain."""
        packer, rows, ends = self._ended[name]
        model = self._stage.work.model.with_params(params)
        ends, total = ends[packer.places], 0.0
        for part in one_pass(rows, meshes.round_rows(BATCH_ROWS)):
            index = np.asarray(part.token_index_BT)
            here = index[index >= 0]
            here = here[packer.learned[here]]
            found = score_tokens(model, packer, "margin", rows=part)["margin"]
            above = np.maximum(found[here] - ends[here], 0)
            total += float(above.sum(dtype=np.float64))
            if total > most:
                break
        return total

    def _accuracy(self, params: Any, text: tuple[Packer, Batch]) -> float:
        packer, rows = text
        model = self._stage.work.model.with_params(params)
        found = score_tokens(model, packer, "top", rows=rows)
        return float(found["top"][packer.learned].mean(dtype=np.float64))

    def reached(self, params: Any) -> bool:
        """Whether parameters are as far as that on all targets."""
        stage, work = self._stage, self._stage.work
        for name in stage.targets:
            if name in self._ended:
                # What is left is summed no further than the stop needs.
                above = max(self._above[name], 1e-6)
                most = (1 - work.how.rounds.stop) * above
                value, gone = 0.0, 1 - self._nats_above(params, name, most) / above
            elif name in self._texts:
                value = self._accuracy(params, self._texts[name])
                chance = work.texts[name].chance
                known = self._before[name] - chance
                gone = 1 - (value - chance) / known if known > 0 else 1.0
            else:
                score = work.scores(params, [name])[name]
                value, gone = score.value, removed(stage.before[name], score)
            if (value if stage.learns else gone) < work.how.rounds.stop:
                return False
        return all(self._accuracy(params, text) >= TAKEN_OVER for text in self._others)


def choose_alpha(
    stage: Stage, targets: list[str], initial: Any, at: Callable[[float], Any]
) -> float:
    """The share of the change that is made, alpha of W' = W + alpha T'.

    It is `rounds.alpha`; where that is 0, the smallest at which the targets of all
    stages reach `rounds.stop`, by bisection. Rounds end at alpha 1, where retained
    groups were guarded; only what was identified in one shot is taken further.

    Args:
      stage: the last.
      targets: of all stages.
      initial: parameters before the run.
      at: parameters of an alpha.

    Raises:
      ValueError: one shot, and no alpha reaches the stop.
    """
    how = stage.work.how
    if how.rounds.alpha:
        return how.rounds.alpha
    goal = dataclasses.replace(stage, targets=targets, params=initial).goal
    low, high = 0.0, 1.0
    if not goal.reached(at(high)):
        if not how.subspace.one_shot:
            print(f"alpha=1: not all of {', '.join(targets)} reach config.rounds.stop.")
            return high
        low, high = high, LARGEST
        if not goal.reached(at(high)):
            raise ValueError(
                f"config.rounds.alpha=0: no alpha up to {high} reaches "
                f"config.rounds.stop={how.rounds.stop}; lower it, or name an alpha."
            )
    while high - low > FINEST:
        middle = (low + high) / 2
        low, high = (low, middle) if goal.reached(at(middle)) else (middle, high)
    return high
