# SPDX-License-Identifier: Apache-2.0
"""When a stage ends: its targets are gone, or learned, by their own text."""

from typing import Any

import numpy as np

from jax_surgery.data.packing import Packer, Rows
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.subject import Scores, Subject, overwritten
from jax_surgery.metrics.task_scores import removed
from jax_surgery.metrics.tokens import score_tokens

TAKEN_OVER = 0.95  # of the tokens that are to take the place of others


class Goal:
    """Whether every target is removed, or learned, as far as `rounds.stop`.

    Of tasks that are scored by the accuracy of answers it asks the text that
    identifies them, not what they are tested on; other scorers have their test alone.
    """

    def __init__(
        self, subject: Subject, targets: list[str], before: Scores, params: Any
    ):
        """Scores the targets' own text before.

        Args:
          subject: the model as it came.
          targets: names of tasks.
          before: scores of the model as it came.
          params: as the stage finds them.
        """
        self._subject, self._targets, self._scores = subject, targets, before
        self._texts = {
            name: self._packed(subject.documents(name, subject.settings.tasks.records))
            for name in targets
            if subject.texts[name].task.scorer == "accuracy"
        }
        self._before = {
            name: self._accuracy(params, text) for name, text in self._texts.items()
        }
        self._others = {}
        if subject.settings.identify.overwrite and not subject.settings.learns:
            self._others = {
                name: self._packed(overwritten(subject, name)) for name in targets
            }

    def _packed(self, documents: list[Document]) -> tuple[Packer, Rows]:
        """Text that is asked after every round, packed once."""
        packer = Packer(documents, self._subject.settings.tasks.context, "tokens")
        return packer, packer.pack()

    def _accuracy(self, params: Any, text: tuple[Packer, Rows]) -> float:
        packer, rows = text
        found = score_tokens(self._subject.model(params), packer, "top", rows=rows)
        return float(found["top"][packer.learned].mean(dtype=np.float64))

    def reached(self, params: Any) -> bool:
        """By what parameters say to the targets."""
        stop = self._subject.settings.rounds.stop
        learns = self._subject.settings.learns
        for name in self._targets:
            if name in self._texts:
                value = self._accuracy(params, self._texts[name])
                chance = self._subject.texts[name].chance
                known = self._before[name] - chance
                gone = 1 - (value - chance) / known if known > 0 else 1.0
            else:
                score = self._subject.scores(params, [name])[name]
                value, gone = score.value, removed(self._scores[name], score)
            if (value if learns else gone) < stop:
                return False
        return all(
            self._accuracy(params, texts) >= TAKEN_OVER
            for texts in self._others.values()
        )
