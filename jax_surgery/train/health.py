# SPDX-License-Identifier: Apache-2.0
"""Whether a model that is being changed still knows the text that it is to retain.

Losses do not say so for every model: one that gives all tokens the same probability costs
no more than log V nats per token, V the size of the vocabulary, which is little where V is
small. So retained text is scored, and its cost is compared with the cost before the run
and with log V.
"""

import itertools
import math

import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.metrics.tokens import score_tokens
from jax_surgery.models.model import Model

ROWS = 8  # of the text that are scored
LOST = 0.5  # of the nats per token between the model before and log V: it collapsed
KNOWN = 1.0  # nats per token below log V, from which on a model knows the text


class Health:
    """Scores text that must stay known, of which the model before is the measure.

    Attributes:
      before: nats per token of the model before the run.
      uniform: of a model that gives every token the same probability.
    """

    def __init__(self, model: Model, packer: Packer):
        """Scores the model before the run on `ROWS` rows of the text, drawn."""
        rows = packer.rows(list(itertools.islice(packer.iterate(0), ROWS)))
        self._packer, self._rows = packer, rows
        index_BT = np.asarray(rows.token_index_BT)
        held = index_BT[index_BT >= 0]
        self._learned = held[packer.learned[held]]
        self.uniform = math.log(model.config.vocab_size)
        self.before = self.nats(model) if len(self._learned) else math.inf

    @property
    def limit(self) -> float:
        """Nats per token from which on a model has collapsed; infinite where the model
        before did not know the text."""
        if not self.before <= self.uniform - KNOWN:
            return math.inf
        return self.before + LOST * (self.uniform - self.before)

    def nats(self, model: Model) -> float:
        """Mean negative log-likelihood of the text's learned tokens, nats per token.

        All processes must call.
        """
        found = score_tokens(model, self._packer, "logp", rows=self._rows)
        return float(-found["logp"][self._learned].mean(dtype=np.float64))

    def problem(self, model: Model) -> str:
        """What is wrong with a model, the first part of a sentence; "" if nothing is."""
        if math.isinf(self.limit) or (now := self.nats(model)) <= self.limit:
            return ""
        return (
            f"the model has collapsed: text that it is to retain costs {now:.3g} nats "
            f"per token, {self.before:.3g} before the run, and {self.uniform:.3g} where "
            "every token is equally likely"
        )
