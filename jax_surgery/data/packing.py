# SPDX-License-Identifier: Apache-2.0
"""Packs documents into rows of a fixed length, with segment ids, through Grain.

Masks come from lengths alone, never from a token id: pad may equal eos.
"""

import dataclasses
from typing import Literal

import numpy as np

from jax_surgery.data.tokens import Document

Average = Literal["sequences", "tokens"]

# Rows that Grain's first-fit keeps open. More pack tighter and hold longer.
OPEN_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows [R, T].

    Attributes:
      tokens_RT: int32; 0 on padding.
      segment_ids_RT: int32; documents of a row are 1, 2, ..., padding 0.
      positions_RT: int32; from 0 in every document.
      weights_RT: float32; 0 where a token is not learned, else 1
        (average="tokens") or 1 / learned tokens of its document
        (average="sequences": mean over tokens, then over sequences).
      token_index_RT: int64; index of the token in the documents laid end to end,
        -1 on padding. Keys a cache of the reference's hidden states.
    """

    tokens_RT: np.ndarray
    segment_ids_RT: np.ndarray
    positions_RT: np.ndarray
    weights_RT: np.ndarray
    token_index_RT: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_RT)

    def take(self, rows: np.ndarray | slice) -> "Rows":
        """A selection of rows."""
        return Rows(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids_RT > 0).sum())


def concatenate(parts: list[Rows]) -> Rows:
    """Rows one after another."""
    names = [f.name for f in dataclasses.fields(Rows)]
    return Rows(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def padding(rows: int, context: int) -> Rows:
    """Rows of nothing, to fill up a last batch."""
    zeros = np.zeros((rows, context), np.int32)
    return Rows(
        zeros,
        zeros,
        zeros,
        np.zeros((rows, context), np.float32),
        np.full((rows, context), -1, np.int64),
    )


def token_weights(learned: np.ndarray, average: Average) -> np.ndarray:
    """Weight of each token of one document, float32 [n]; the first is 0."""
    targets = learned.astype(np.float32)
    targets[0] = 0.0
    return targets if average == "tokens" else targets / max(targets.sum(), 1.0)


class Packer:
    """A role's documents as one corpus, packed anew for every epoch."""

    def __init__(self, documents: list[Document], context: int, average: Average):
        """Prepares the documents.

        Raises:
          ValueError: a document longer than the context, or an unknown average.
        """
        if average not in ("sequences", "tokens"):
            raise ValueError(
                f"data.average={average!r}; use 'sequences' (the paper's mean over "
                "tokens, then over sequences) or 'tokens'."
            )
        longest = max(len(d.tokens) for d in documents)
        if longest > context:
            raise ValueError(
                f"a document of {longest} tokens does not fit data.context={context}; "
                "encode it with this context."
            )
        self.documents = documents
        self.context = context
        starts = np.cumsum([0] + [len(d.tokens) for d in documents])
        self.num_tokens = int(starts[-1])
        self._examples = [
            {
                "tokens": d.tokens,
                "weights": token_weights(d.learned, average),
                "token_index": np.arange(start, start + len(d.tokens), dtype=np.int64)
                + 1,  # Grain pads with 0
            }
            for d, start in zip(documents, starts[:-1], strict=True)
        ]

    def pack(self, seed: int | None = None) -> Rows:
        """All documents once, in the order that `seed` gives (None: as they are)."""
        import grain

        examples = grain.MapDataset.source(self._examples)
        if seed is not None:
            examples = examples.seed(seed).shuffle()
        lengths = dict.fromkeys(("tokens", "weights", "token_index"), self.context)
        packed = grain.experimental.FirstFitPackIterDataset(
            examples.to_iter_dataset(),
            length_struct=lengths,
            num_packing_bins=OPEN_ROWS,
            shuffle_bins=False,
        )
        columns = list(packed)
        stack = lambda key, dtype: np.stack([c[key] for c in columns]).astype(dtype)
        return Rows(
            stack("tokens", np.int32),
            stack("tokens_segment_ids", np.int32),
            stack("tokens_positions", np.int32),
            stack("weights", np.float32),
            stack("token_index", np.int64) - 1,
        )
