# SPDX-License-Identifier: Apache-2.0
"""Documents packed into rows of a fixed number of tokens, by Grain's first fit.

Only positions in the corpus (the documents one after the other) are packed; tokens,
weights and the cached reference are looked up by them. Masks come from lengths,
never from a token's id: the padding's id (0) may be any token.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from jax_surgery.data.tokens import Document

Average = Literal["tokens", "sequences"]
AVERAGES = ("tokens", "sequences")

# Open rows of the first fit. On 10 000 documents of 10 to 60 tokens in rows of 256
# these leave 1.5 % of the tokens to padding (8 leave 2.7 %), at the same speed.
OPEN_ROWS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """R packed rows of T tokens.

    Attributes:
      tokens_RT: int32; 0 where padded.
      segment_ids_RT: int32; documents of a row are 1, 2, ...; 0 where padded.
      positions_RT: int32; position within the document.
      weights_RT: float32, weight of the token as a target; 0 where it is not learned
        or the first of its document.
      token_index_RT: int64, position in the corpus; -1 where padded.
    """

    tokens_RT: np.ndarray
    segment_ids_RT: np.ndarray
    positions_RT: np.ndarray
    weights_RT: np.ndarray
    token_index_RT: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_RT)

    @property
    def documents(self) -> int:
        """How many documents the rows hold."""
        return int(self.segment_ids_RT.max(axis=1, initial=0).sum())


class Corpus:
    """The documents of one role one after the other, n tokens in all.

    Attributes:
      tokens: int32 [n].
      weights: float32 [n], see `Rows.weights_RT`.
      starts: int64 [documents + 1], where each document begins; the last is n.
    """

    def __init__(self, documents: Sequence[Document], average: Average = "tokens"):
        """Lays the documents out.

        Args:
          documents: at least one.
          average: "tokens" weighs every learned token 1; "sequences" weighs it
            1 / the learned tokens of its document, as LLM Surgery does.

        Raises:
          ValueError: no documents, or an unknown `average`.
        """
        if not documents:
            raise ValueError("no documents; a corpus needs at least one.")
        if average not in AVERAGES:
            raise ValueError(
                f"average={average!r}; choose one of {', '.join(AVERAGES)}."
            )
        lengths = [len(document.tokens) for document in documents]
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.tokens = np.concatenate([d.tokens for d in documents]).astype(np.int32)
        learned = np.concatenate([d.learned for d in documents])
        learned[self.starts[:-1]] = False  # nothing predicts a document's first token
        self.weights = learned.astype(np.float32)
        if average == "sequences":
            targets = np.add.reduceat(self.weights, self.starts[:-1])
            self.weights /= np.repeat(np.maximum(targets, 1), lengths)

    @property
    def num_documents(self) -> int:
        return len(self.starts) - 1

    def rows(
        self, index_RT: np.ndarray, segments_RT: np.ndarray, positions_RT: np.ndarray
    ) -> Rows:
        """The rows whose tokens stand at `index_RT`, -1 where padded."""
        real_RT = index_RT >= 0
        return Rows(
            tokens_RT=np.where(real_RT, self.tokens[index_RT], 0).astype(np.int32),
            segment_ids_RT=segments_RT.astype(np.int32),
            positions_RT=positions_RT.astype(np.int32),
            weights_RT=np.where(real_RT, self.weights[index_RT], 0).astype(np.float32),
            token_index_RT=index_RT.astype(np.int64),
        )


def row_iterator(corpus: Corpus, context: int, seed: int | None) -> Iterator[Any]:
    """Grain's iterator over the packed rows of one pass over the corpus.

    Its elements hold `index`, `index_segment_ids` and `index_positions`, each [T]; it
    can be saved and resumed with `get_state` and `set_state`.

    Args:
      corpus: what to pack.
      context: tokens of a row.
      seed: of the documents' order; None keeps it.

    Raises:
      ValueError: a document longer than the context.
    """
    import grain

    longest = int(np.diff(corpus.starts).max())
    if longest > context:
        raise ValueError(
            f"a document has {longest} tokens, the context is {context}; encode the "
            f"records with context={context} or pack them into {longest}."
        )
    starts = corpus.starts
    order = grain.MapDataset.range(corpus.num_documents)
    if seed is not None:
        order = order.seed(seed).shuffle()
    documents = order.map(
        lambda i: {"index": np.arange(starts[i], starts[i + 1], dtype=np.int64)}
    ).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=1))
    return iter(
        grain.experimental.FirstFitPackIterDataset(
            documents,
            length_struct={"index": context},
            padding_struct={"index": -1},
            num_packing_bins=OPEN_ROWS,
            seed=seed or 0,
            shuffle_bins=seed is not None,
        )
    )


def gather_rows(corpus: Corpus, elements: Sequence[Any], rows: int, context: int):
    """Elements of `row_iterator` as `rows` rows, the missing ones wholly padded."""
    shape = (rows, context)
    index_RT = np.full(shape, -1, np.int64)
    segments_RT, positions_RT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for r, element in enumerate(elements):
        index_RT[r] = element["index"]
        segments_RT[r] = element["index_segment_ids"]
        positions_RT[r] = element["index_positions"]
    return corpus.rows(index_RT, segments_RT, positions_RT)


def pack(
    documents: Sequence[Document],
    context: int,
    *,
    seed: int | None = None,
    average: Average = "tokens",
) -> Rows:
    """All documents, each once, as packed rows.

    Args:
      documents: at least one, of at most `context` tokens.
      context: tokens of a row.
      seed: of the documents' order; None keeps it. The same seed gives the same rows.
      average: see `Corpus`.
    """
    corpus = Corpus(documents, average)
    elements = list(row_iterator(corpus, context, seed))
    return gather_rows(corpus, elements, len(elements), context)
