# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a text carry knowledge that the retain text alone does not predict.

Most tokens of a biography are the language's, not the person's: unlearning them
damages what is retained and forgets nothing. A token carries knowledge where an n-gram model of
the retain text is surprised by it and the text has not said it before. The n-gram model
interpolates orders by Witten and Bell's (1991) rule; "said before" is the cache of
Kuhn and De Mori (1990).
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from jax_surgery.data.tokens import Document

ORDER = 4  # tokens of the longest n-gram
# Of a multiplicative hash of n-grams; 64-bit collisions are one in 10^7 at 10^6 keys.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _extend(keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Hashes of n-grams, each longer by one token."""
    mixed = (keys ^ (tokens.astype(np.uint64) + np.uint64(1))) * _MULTIPLIER
    return mixed ^ (mixed >> np.uint64(29))


def _table(keys: np.ndarray, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The values of sorted keys as a function of keys, 0 where one is absent."""

    def look_up(wanted: np.ndarray) -> np.ndarray:
        if not len(keys):
            return np.zeros(len(wanted), np.int64)
        index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[index] == wanted, values[index], 0)

    return look_up


class Background:
    """An n-gram model of retained documents."""

    def __init__(self, documents: Sequence[Document], vocab_size: int):
        self._vocab_size = vocab_size
        # Of each order, by hash: how often an n-gram and its context occur, and with
        # how many different tokens the context goes on.
        self._orders = []
        for grams, contexts, whole in self._keys(*_laid_out(documents)):
            gram_keys, first, counts = np.unique(
                grams[whole], return_index=True, return_counts=True
            )
            keys, which, seen = np.unique(
                contexts[whole], return_inverse=True, return_counts=True
            )
            novel = np.bincount(which[first], minlength=len(keys))
            self._orders.append(
                (_table(gram_keys, counts), _table(keys, seen), _table(keys, novel))
            )

    @staticmethod
    def _keys(tokens: np.ndarray, places: np.ndarray):
        """Of each order: hashes of n-grams and contexts, and which lie in one text."""
        for order in range(1, ORDER + 1):
            contexts = np.zeros(len(tokens), np.uint64)
            for back in range(order - 1, 0, -1):
                contexts = _extend(contexts, np.roll(tokens, back))
            yield _extend(contexts, tokens), contexts, places >= order - 1

    def surprise(self, documents: Sequence[Document]) -> list[np.ndarray]:
        """-log p of every token, nats, one array [n] a document.

        A token that occurs earlier in its document has 0.
        """
        tokens, places = _laid_out(documents)
        p = np.full(len(tokens), 1 / self._vocab_size)
        for (counts_of, seen_of, novel_of), (grams, contexts, whole) in zip(
            self._orders, self._keys(tokens, places), strict=True
        ):
            seen, novel = seen_of(contexts), novel_of(contexts)
            mixed = (counts_of(grams) + novel * p) / np.maximum(seen + novel, 1)
            p = np.where(whole & (seen > 0), mixed, p)
        starts = np.flatnonzero(places == 0)
        document = np.repeat(np.arange(len(starts)), np.diff([*starts, len(tokens)]))
        pairs = document.astype(np.int64) * self._vocab_size + tokens
        fresh = np.zeros(len(tokens), bool)
        fresh[np.unique(pairs, return_index=True)[1]] = True
        surprise = np.where(fresh, -np.log(p), 0.0)
        return np.split(surprise, starts[1:])


def _laid_out(documents: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens end to end, and each one's place in its document."""
    tokens = np.concatenate([d.tokens for d in documents])
    places = np.concatenate([np.arange(len(d.tokens)) for d in documents])
    return tokens, places


def select(
    documents: Sequence[Document], background: Background, threshold: float
) -> list[Document]:
    """The documents, learned only where the background is surprised.

    Documents without a learned token are dropped, with a warning that counts.

    Args:
      documents: of a role.
      background: the n-gram model of the retain text.
      threshold: nats.

    Raises:
      ValueError: no learned token is left at all.
    """
    chosen = []
    for document, surprise in zip(
        documents, background.surprise(documents), strict=True
    ):
        learned = document.learned & (surprise >= threshold)
        chosen.append(dataclasses.replace(document, learned=learned))
    kept = [document for document in chosen if document.targets]
    if not kept:
        raise ValueError(
            f"no token of {len(documents)} texts surprises the n-gram model of the retain text by "
            f"data.surprise={threshold} nats or more; lower it, or use 0 for all tokens."
        )
    if len(kept) < len(documents):
        warnings.warn(
            f"{len(documents) - len(kept)} of {len(documents)} texts hold no token that "
            f"surprises the retain text by data.surprise={threshold} nats and were left "
            "out; lower it to keep them.",
            stacklevel=2,
        )
    return kept
