# SPDX-License-Identifier: Apache-2.0
"""When a stage ends: its targets are unlearned, or learned, by their own text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.targets import overwritten
from jax_surgery.methods.subspace.work import Scores, Work
from jax_surgery.metrics.task_scores import removed
from jax_surgery.metrics.tokens import score_tokens

TAKEN_OVER = 0.95  # of the tokens that are to take the place of others


class Goal:
    """Whether every target is removed, or learned, as far as `rounds.stop`.

    Of groups that are scored by the accuracy of answers it asks the text that
    identifies them, not what they are tested on; other scorers have their test alone.
    """

    def __init__(
        self,
        work: Work,
        targets: list[str],
        before: Scores,
        params: Any,
        *,
        learns: bool,
    ):
        """Scores the targets' own text before.

        Args:
          work: the model before the run, and its groups.
          targets: names of groups.
          before: scores of the model before the run.
          params: parameters before the stage.
          learns: whether the targets are added.
        """
        self._work, self._targets, self._scores = work, targets, before
        self._learns = learns
        self._texts = {
            name: self._packed(work.documents(name))
            for name in targets
            if work.texts[name].group.scorer == "accuracy"
        }
        self._before = {
            name: self._accuracy(params, text) for name, text in self._texts.items()
        }
        self._others = {}
        if work.how.subspace.overwrite and not learns:
            self._others = {
                name: self._packed(overwritten(work, name)) for name in targets
            }

    def _packed(self, documents: Sequence[Document]) -> tuple[Packer, Batch]:
        """Text that is asked after every round, packed once."""
        packer = Packer(documents, self._work.how.tasks.context, "tokens")
        return packer, packer.pack()

    def _accuracy(self, params: Any, text: tuple[Packer, Batch]) -> float:
        packer, rows = text
        found = score_tokens(
            self._work.model.with_params(params), packer, "top", rows=rows
        )
        return float(found["top"][packer.learned].mean(dtype=np.float64))

    def reached(self, params: Any) -> bool:
        """Whether parameters are as far as that on all targets."""
        stop = self._work.how.rounds.stop
        for name in self._targets:
            if name in self._texts:
                value = self._accuracy(params, self._texts[name])
                chance = self._work.texts[name].chance
                known = self._before[name] - chance
                gone = 1 - (value - chance) / known if known > 0 else 1.0
            else:
                score = self._work.scores(params, [name])[name]
                value, gone = score.value, removed(self._scores[name], score)
            if (value if self._learns else gone) < stop:
                return False
        return all(
            self._accuracy(params, texts) >= TAKEN_OVER
            for texts in self._others.values()
        )
