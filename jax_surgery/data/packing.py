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

import jax
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_names import Average
from jax_surgery.data.tokens import Document, digest

if TYPE_CHECKING:
    import grain  # slow to import; `iterate` does it

# Rows that Grain's first-fit keeps open. More pack tighter and hold longer: with 10
# to 60 tokens a document in rows of 256, padding is 2.7 % with 8, 1.5 % with 64.
OPEN_ROWS = 64
LEAST_SHARED = 4  # tokens of a beginning that are compared first


def _begins(document: Document, beginning: np.ndarray) -> bool:
    """Whether a document may leave its beginning to the row: it begins so, and nothing
    of it is learned, nor the token after it, which another segment would predict."""
    size = len(beginning)
    return (
        len(document.tokens) > size
        and np.array_equal(document.tokens[:size], beginning)
        and not document.learned[: size + 1].any()
    )


def common_beginning(documents: Sequence[Document], context: int) -> np.ndarray:
    """Tokens with which most documents begin, such as the system message of a chat
    template, int32 [n]; none where sharing them would save nothing.

    Documents that begin otherwise must fit into the rest of a row.

    Args:
      documents: of all roles.
      context: tokens of a row.
    """
    starts: dict[bytes, list[Document]] = {}
    for document in documents:
        starts.setdefault(document.tokens[:LEAST_SHARED].tobytes(), []).append(document)
    same = max(starts.values(), key=len)
    unlearned = [
        document.tokens[: max(int(np.argmax([*document.learned, True])) - 1, 0)]
        for document in same
    ]
    size = min(map(len, unlearned))
    different = np.any(
        [tokens[:size] != unlearned[0][:size] for tokens in unlearned], 0
    )
    size = int(np.argmax([*different, True]))
    beginning = unlearned[0][:size].astype(np.int32)
    saved = size * (len(same) - 1)
    rows = -(-sum(len(d.tokens) for d in documents) // context)
    longest = max(
        len(document.tokens) - size * _begins(document, beginning)
        for document in documents
    )
    fits = longest <= context - size
    return beginning if fits and saved > size * rows else beginning[:0]


class Packer:
    """A role's documents as one corpus, packed anew for every epoch.

    Attributes:
      documents: what is packed.
      context: tokens of a row.
      num_tokens: tokens of the corpus.
      starts: where each document begins in it, int64 [documents].
      group: how many documents are packed together, the first the text itself.
      num_units: what is packed whole: documents, or groups of them.
      streams: which stream each of these belongs to (see `data.streams`), [num_units].
      beginning: tokens that stand once in each row for all documents that begin so,
        and are left out of the corpus.
      places: where each token of the corpus stands in the whole documents laid end to
        end, int64 [num_tokens].
    """

    def __init__(
        self,
        documents: Sequence[Document],
        context: int,
        average: Average,
        group: int = 1,
        beginning: np.ndarray | None = None,
    ):
        """Lays the documents end to end.

        Args:
          documents: what to pack, each whole in one row.
          context: tokens of a row.
          average: see `Batch.weights_BT`.
          group: how many documents, one after another, stay together in a row, each a
            segment of its own (2 for pairs).
          beginning: see `common_beginning`; None, or no tokens, shares nothing.

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
        self.beginning = np.zeros(0, np.int32) if beginning is None else beginning
        whole = np.asarray([len(d.tokens) for d in documents])
        skipped = np.zeros(len(documents), np.int64)
        if len(self.beginning):
            assert group == 1, "segments of pairs are counted, and none may be shared"
            begin = [_begins(document, self.beginning) for document in documents]
            skipped = np.where(begin, len(self.beginning), 0)
        lengths = whole - skipped
        together = lengths.reshape(-1, group).sum(1)
        if together.max() > context - len(self.beginning):
            what = "a document" if group == 1 else f"a group of {group} documents"
            raise ValueError(
                f"{what} of {together.max()} tokens does not fit data.context={context} "
                f"({documents[group * together.argmax()].origin}); raise it."
            )
        self.group, self.num_units = group, len(together)
        self.documents = documents
        self.streams = np.array([d.stream for d in documents[::group]])
        self.context = context
        self.num_tokens = int(lengths.sum())
        self.starts = np.cumsum(lengths, dtype=np.int64) - lengths
        number = np.repeat(np.arange(len(documents)), lengths)
        self._member = (number % group).astype(np.int32)
        place = np.arange(self.num_tokens) - self.starts[number] + skipped[number]
        self.places = (np.cumsum(whole) - whole)[number] + place
        self._place, self._shares = place.astype(np.int32), skipped[number] > 0
        pairs = list(zip(documents, skipped.tolist(), strict=True))
        self._tokens = np.concatenate([d.tokens[n:] for d, n in pairs]).astype(np.int32)
        learned = np.concatenate([d.learned[n:] for d, n in pairs])
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

    def weight_of(self, index_BT: np.ndarray) -> float:
        """The sum of `Batch.weights_BT` over places in the corpus; -1 is padding."""
        return float(np.where(index_BT >= 0, self._weights[index_BT], 0).sum())

    def iterate(
        self, seed: int | None = None, stream: int | None = None
    ) -> "grain.DatasetIterator[dict[str, np.ndarray]]":
        """Grain's iterator over the rows that hold all documents once.

        Its elements are for `rows`; it is saved and resumed with `get_state` and
        `set_state`.

        Args:
          seed: of the order of documents and rows; None leaves it as it is.
          stream: whose documents alone are packed; None packs all.
        """
        import grain

        starts = self.starts[:: self.group]
        ends = np.append(starts[1:], self.num_tokens)
        # Not Grain's own shuffle: of a handful of documents it takes 5 ms each.
        order = np.arange(self.num_units)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        if stream is not None:
            order = order[self.streams[order] == stream]
        source: Any = order  # an array has all that Grain asks of a sequence
        corpus_positions = grain.MapDataset.source(source).map(
            lambda i: {"index": np.arange(starts[i], ends[i])}
        )
        packed = grain.experimental.FirstFitPackIterDataset(
            # It runs in this thread, because it never waits.
            corpus_positions.to_iter_dataset(
                grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            ),
            length_struct={"index": self.context - len(self.beginning)},
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
        batch = Batch(
            np.where(real_BT, self._tokens[index_BT], np.int32(0)),
            np.where(real_BT, segment_ids_BT, np.int32(0)),
            np.where(real_BT, self._place[index_BT], np.int32(0)),
            np.where(real_BT, self._weights[index_BT], np.float32(0)),
            index_BT,
        )
        if not len(self.beginning):
            return batch
        return self._begun(batch, real_BT & self._shares[index_BT])

    def _begun(self, batch: Batch, shares_BT: np.ndarray) -> Batch:
        """The rows with the beginning before them, as their first segment."""
        size = len(self.beginning)
        first = Batch(
            np.tile(self.beginning, (len(batch), 1)),
            np.ones((len(batch), size), np.int32),
            np.tile(np.arange(size, dtype=np.int32), (len(batch), 1)),
            np.zeros((len(batch), size), np.float32),
            np.full((len(batch), size), -1, np.int64),
            begins_BT=np.ones((len(batch), size), np.int32),
        )
        ids_BT = batch.segment_ids_BT
        rest = batch.replace(
            segment_ids_BT=np.where(ids_BT > 0, ids_BT + 1, 0),
            begins_BT=shares_BT.astype(np.int32),
        )
        return jax.tree.map(lambda *each: np.concatenate(each, axis=1), first, rest)

    def pack(self, seed: int | None = None, most: int | None = None) -> Batch:
        """All documents once, in the order that `seed` gives (None: as they are).

        Args:
          seed: see `iterate`.
          most: of the rows, only so many are packed, the first; None packs all.
        """
        return self.rows(list(itertools.islice(self.iterate(seed), most)))
