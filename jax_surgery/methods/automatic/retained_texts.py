# SPDX-License-Identifier: Apache-2.0
"""How often retained texts of each kind are read: in training, and for the second moments."""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document

# The user's own texts to retain are at least this share of those that are retained, if
# no more copies are needed: a few lines would be read once in a run, if at all.
OWN_SHARE, MOST_COPIES = 0.15, 8


def repeated(kinds: Mapping[str, Sequence[Record]]) -> list[Record]:
    """The user's own records to retain, as often as they are read for once that each
    other text is.

    Args:
      kinds: records to retain by kind, the user's as "retain".
    """
    own = list(kinds["retain"])
    if not own:
        return own
    others = sum(len(rows) for kind, rows in kinds.items() if kind != "retain")
    wanted = OWN_SHARE / (1 - OWN_SHARE) * others
    return own * int(np.clip(np.ceil(wanted / len(own)), 1, MOST_COPIES))


def alike(kinds: Mapping[str, Sequence[Document]], tokens: int) -> list[Document]:
    """Documents of all kinds, of each about as many tokens while it has any left.

    Long passages would be most of what second moments are of otherwise, and a step would
    spare them rather than short answers, which a change spreads to first.

    Args:
      kinds: documents by kind.
      tokens: of all together, about; 0 takes all documents.
    """
    left = {kind: list(documents)[::-1] for kind, documents in kinds.items()}
    taken = dict.fromkeys(left, 0)
    found: list[Document] = []
    while any(left.values()) and not (tokens and sum(taken.values()) >= tokens):
        kind = min((k for k in left if left[k]), key=taken.__getitem__)
        found.append(left[kind].pop())
        taken[kind] += len(found[-1].tokens)
    return found
