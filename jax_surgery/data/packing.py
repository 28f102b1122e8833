# SPDX-License-Identifier: Apache-2.0
"""Packs documents into rows of a fixed length, with segment ids, through Grain.

Only positions in the corpus (the documents laid end to end) are packed; tokens,
weights and a cached reference are looked up by them. Masks come from lengths alone,
never from a token id: pad may equal eos.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_names import Average
from jax_surgery.data.tokens import Document, digest

if TYPE_CHECKING:
    import grain  # slow to import; `iterate` does it

# Rows that Grain's first-fit keeps open. More pack tighter and hold longer: with 10
# to 60 tokens a document in rows of 256, padding is 2.7 % with 8, 1.5 % with 64.
OPEN_ROWS = 64


class Packer:
    """A role's documents as one corpus, packed anew for every epoch.

    Attributes:
      documents: what is packed.
      context: tokens of a row.
      num_tokens: tokens of the corpus.
      starts: where each document begins in it, int64 [documents].
      group: how many documents are packed together, the first the text itself.
      num_units: what is packed whole: documents, or groups of them.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        context: int,
        average: Average,
        group: int = 1,
    ):
        """Lays the documents end to end.

        Args:
          documents: what to pack, each whole in one row.
          context: tokens of a row.
          average: see `Batch.weights_BT`.
          group: how many documents, one after another, stay together in a row, each a
            segment of its own (2 for pairs).

        Raises:
          ValueError: no documents, a document (group) longer than the context, or an
            unknown average.
        """
        if average not in ("sequences", "tokens"):
            raise ValueError(
                f"data.average={average!r}; use 'sequences' (the paper's mean over "
                "tokens, then over sequences) or 'tokens'."
            )
        if not documents:
            raise ValueError("there are no documents to pack; give at least one.")
        lengths = np.asarray([len(d.tokens) for d in documents])
        together = lengths.reshape(-1, group).sum(1)
        if together.max() > context:
            what = "a document" if group == 1 else f"a group of {group} documents"
            raise ValueError(
                f"{what} of {together.max()} tokens does not fit data.context={context} "
                f"({documents[group * together.argmax()].origin}); raise it."
            )
        self.group, self.num_units = group, len(together)
        self.documents = documents
        self.context = context
        self.num_tokens = int(lengths.sum())
        self.starts = np.cumsum(lengths, dtype=np.int64) - lengths
        number = np.repeat(np.arange(len(documents)), lengths)
        self._member = (number % group).astype(np.int32)
        self._place = (np.arange(self.num_tokens) - self.starts[number]).astype(
            np.int32
        )
        self._tokens = np.concatenate([d.tokens for d in documents]).astype(np.int32)
        learned = np.concatenate([d.learned for d in documents])
        learned[self.starts] = False  # nothing predicts a document's first token
        self._weights = learned.astype(np.float32)
        if average == "sequences":
            targets = np.add.reduceat(self._weights, self.starts)
            self._weights /= np.repeat(np.maximum(targets, 1), lengths)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the documents' tokens and of which are learned."""
        return digest(self.documents)

    @property
    def learned(self) -> np.ndarray:
        """Which tokens of the corpus are learned, bool [tokens]."""
        return self._weights > 0

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each document's learned tokens, float64 [documents].

        Args:
          values: of each token, [tokens].
        """
        learned = np.where(self.learned, values, 0).astype(np.float64)
        return np.add.reduceat(learned, self.starts)

    def iterate(
        self, seed: int | None = None
    ) -> "grain.DatasetIterator[dict[str, np.ndarray]]":
        """Grain's iterator over the rows that hold all documents once.

        Its elements are for `rows`; it is saved and resumed with `get_state` and
        `set_state`.

        Args:
          seed: of the order of documents and rows; None leaves it as it is.
        """
        import grain

        starts = self.starts[:: self.group]
        ends = np.append(starts[1:], self.num_tokens)
        # Not Grain's own shuffle: of a handful of documents it takes 5 ms each.
        order = np.arange(self.num_units)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        source: Any = order  # an array has all that Grain asks of a sequence
        corpus_positions = grain.MapDataset.source(source).map(
            lambda i: {"index": np.arange(starts[i], ends[i])}
        )
        packed = grain.experimental.FirstFitPackIterDataset(
            # It runs in this thread, because it never waits.
            corpus_positions.to_iter_dataset(
                grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            ),
            length_struct={"index": self.context},
            padding_struct={"index": -1},
            num_packing_bins=OPEN_ROWS,
            seed=seed or 0,
            shuffle_bins=seed is not None,
        )
        return iter(packed)

    def rows(self, elements: Sequence[dict[str, Any]]) -> Batch:
        """Elements of `iterate`, at least one, as rows."""
        index_BT = np.stack([e["index"] for e in elements])
        real_BT = index_BT >= 0
        units_BT = np.stack([e["index_segment_ids"] for e in elements])
        segment_ids_BT = (units_BT - 1) * self.group + 1 + self._member[index_BT]
        return Batch(
            np.where(real_BT, self._tokens[index_BT], np.int32(0)),
            np.where(real_BT, segment_ids_BT, np.int32(0)),
            np.where(real_BT, self._place[index_BT], np.int32(0)),
            np.where(real_BT, self._weights[index_BT], np.float32(0)),
            index_BT,
        )

    def pack(self, seed: int | None = None, most: int | None = None) -> Batch:
        """All documents once, in the order that `seed` gives (None: as they are).

        Args:
          seed: see `iterate`.
          most: of the rows, only so many are packed, the first; None packs all.
        """
        return self.rows(list(itertools.islice(self.iterate(seed), most)))
