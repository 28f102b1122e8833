# SPDX-License-Identifier: Apache-2.0
"""The retained groups' text: what the ridge reads, what is guarded, and which answers are right."""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.targets import repeated
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics.tokens import Kind, score_tokens
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train.reference_cache import fingerprint

ROWS = 32  # of a forward pass, at least
SIMILAR_WEIGHT = 5.0  # of similar groups' text in the moments; 1 of others'
GUARDED = 4.0  # nats of log-odds; a retained token above is not raised


class RetainedText:
    """Up to `Work.RECORDS` texts of each retained task.

    Attributes:
      packer: the texts.
    """

    def __init__(
        self,
        work: Work,
        retained: list[str],
        similar: set[str],
        found: Any = None,
    ):
        """Packs the text.

        Args:
          retained: names of tasks, at least one.
          similar: of them, those that weigh `discriminate.similar_weight`, not 1.
          found: further parameters; what is right with them is retained too.
        """
        self._work = work
        self._models = [work.model.params]
        if found is not None and found is not work.model.params:
            self._models.append(found)
        settings = work.how
        documents: list[Document] = []
        weights, self._near, self._far = [], [], []
        for name in retained:
            near = name in similar
            own = work.documents(name)
            places = list(range(len(documents), len(documents) + len(own)))
            documents += own
            if near:
                self._near.append(places)
            else:
                self._far += places
            weight = SIMILAR_WEIGHT if near else 1.0
            count = sum(len(d.tokens) for d in own)
            weights.append(np.full(count, weight / count, np.float32))
        self.packer = Packer(documents, settings.tasks.context, "tokens")
        self._rows = self.packer.pack()
        # A task's tokens weigh its weight together.
        self._weights = np.concatenate(weights)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Every row once, from batch `first` on, with the weights that
        `second_moments` reads."""
        rows = meshes.round_rows(ROWS)
        for batch in one_pass(self._rows.select(slice(first * rows, None)), rows):
            weights_BT = self._weights[batch.token_index_BT]
            yield batch.replace(moment_weights_BT=weights_BT).place(rows)

    @property
    def num_batches(self) -> int:
        """How many `batches` there are."""
        return math.ceil(len(self._rows) / meshes.round_rows(ROWS))

    @functools.cached_property
    def key(self) -> str:
        """Hash of the model, the text, its weights, and what is read of them."""
        work = self._work
        digest = hashlib.sha256()
        compute = work.model.compute
        digest.update(fingerprint(work.model.params, self.packer, compute).encode())
        digest.update(self._weights.tobytes())
        trainable = work.trainable
        digest.update(
            repr((trainable, self.num_batches, meshes.round_rows(ROWS))).encode()
        )
        return digest.hexdigest()

    def _score(self, params: Any, *kinds: Kind) -> dict[Kind, np.ndarray]:
        model = self._work.model.with_params(params)
        return score_tokens(model, self.packer, *kinds, rows=self._rows)

    @functools.cached_property
    def _before(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each token, the highest log-odds of any model, and whether one was right."""
        scores = [self._score(params, "margin", "top") for params in self._models]
        margins = np.max([s["margin"] for s in scores], 0)
        return margins, np.max([s["top"] for s in scores], 0) > 0

    def lost(self, params: Any) -> np.ndarray:
        """Places of texts with an answer's token that was right and is wrong now."""
        wrong = self._before[1] & (self._score(params, "top")["top"] == 0)
        return np.flatnonzero(self.packer.sums(wrong))

    def guarded(self, lost: Sequence[int] | np.ndarray) -> tuple[Packer, np.ndarray]:
        """Text to be guarded, and how high each of its tokens is pushed at most, nats.

        There are similar tasks' texts as often as all others together, and lost ones as
        often as both. No token is guarded above where it was: guarding teaches nothing.

        Args:
          lost: places of texts.
        """
        near = repeated(self._near)
        places = repeated([list(lost), repeated([near, self._far])])
        documents = [self.packer.documents[i] for i in places]
        settings = self._work.how
        spans = np.split(self._before[0], self.packer.starts[1:])
        reached = np.concatenate([spans[i] for i in places])
        bounds = np.minimum(GUARDED, reached)
        return Packer(documents, settings.tasks.context, "tokens"), bounds
