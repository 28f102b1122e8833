# SPDX-License-Identifier: Apache-2.0
"""How often retained texts of each kind are read: in training, and for the second moments."""

from collections.abc import Mapping, Sequence

from jax_surgery.data.tokens import Document

# Copies of a kind's documents, at most.
MOST_COPIES = 8
# Weights of kinds among the learned tokens; of the others 1. What lies nearest to what
# changes moves first, and is what a budget is spent on.
WEIGHTS = {"neighbours": 2.0}


def balanced(kinds: Mapping[str, Sequence[Document]]) -> list[Document]:
    """Documents of all kinds, those of small kinds several times, so that each kind has
    about its weight of the learned tokens: a few lines of the user's would be read once in
    a run, if at all.

    Args:
      kinds: documents by kind.
    """
    learned = {
        kind: sum(int(one.learned[1:].sum()) for one in documents)
        for kind, documents in kinds.items()
    }
    weight = lambda kind: WEIGHTS.get(kind, 1.0)
    most = max((n / weight(kind) for kind, n in learned.items()), default=0)
    found = []
    for kind, documents in kinds.items():
        wanted = round(weight(kind) * most / max(learned[kind], 1))
        found += list(documents) * min(max(wanted, 1), MOST_COPIES)
    return found


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
