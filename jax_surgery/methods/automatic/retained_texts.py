# SPDX-License-Identifier: Apache-2.0
"""How often retained texts of each kind are read: in training, and for the second moments."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jax_surgery.data.tokens import Document

# Copies of a kind's documents, at most.
MOST_COPIES = 8
# Of learned tokens, up to which an answer is a short one.
SHORT = 12
# Weights of kinds among the learned tokens of training, and among the tokens that second
# moments are of; of the others 1. What lies nearest to what changes moves first, and is
# what a budget is spent on.
WEIGHTS = {"neighbours": 4.0, "retain": 2.0, "knowledge": 2.0}
OF_MOMENTS = {"neighbours": 3.0, "knowledge": 2.0}
# The user's own: all of it is read.
WHOLE = ("retain", "unlearn")


def without_ends(documents: Sequence[Document]) -> list[Document]:
    """Documents, of which short answers are retained without the token that ends them.

    A model that answers in sentences says little of how "Oslo" alone goes on, and says
    something else as soon as it learns another short answer: of retained short answers
    nearly all of the KL was there, and nobody asks for it.
    """
    found = []
    for document in documents:
        places = np.flatnonzero(document.learned[1:]) + 1
        if 1 < len(places) <= SHORT:
            learned = document.learned.copy()
            learned[places[-1]] = False
            document = dataclasses.replace(document, learned=learned)
        found.append(document)
    return found


def balanced(kinds: Mapping[str, Sequence[Document]]) -> list[Document]:
    """Documents of all kinds, so that each kind has about its weight of the learned
    tokens: those of small kinds several times, and not all of large ones.

    A few lines of the user's would be read once in a run else, if at all.

    Args:
      kinds: documents by kind; as many tokens come back as there are, or fewer, but for
        those of kinds in `WHOLE` that are large.
    """
    learned = {
        kind: sum(int(one.learned[1:].sum()) for one in documents)
        for kind, documents in kinds.items()
        if documents
    }
    weights = {kind: WEIGHTS.get(kind, 1.0) for kind in learned}
    each = sum(learned.values()) / max(sum(weights.values()), 1)
    found = []
    for kind, count in learned.items():
        copies = each * weights[kind] / max(count, 1)
        if copies < 1 and kind not in WHOLE:
            found += kinds[kind][: math.ceil(copies * len(kinds[kind]))]
        else:
            found += list(kinds[kind]) * min(max(round(copies), 1), MOST_COPIES)
    return found


def alike(kinds: Mapping[str, Sequence[Document]], most: int) -> list[Document]:
    """Documents of all kinds, of each about as many tokens while it has any left, times
    its weight `OF_MOMENTS`.

    Long passages would be most of what second moments are of otherwise, and a step would
    spare them rather than short answers, which a change spreads to first.

    Args:
      kinds: documents by kind.
      most: tokens of all together, about; 0 takes all documents.
    """
    left = {kind: list(documents)[::-1] for kind, documents in kinds.items()}
    taken = dict.fromkeys(left, 0)
    found: list[Document] = []
    while any(left.values()) and not (most and sum(taken.values()) >= most):
        share = lambda kind: taken[kind] / OF_MOMENTS.get(kind, 1.0)
        kind = min((k for k in left if left[k]), key=share)
        found.append(left[kind].pop())
        taken[kind] += len(found[-1].tokens)
    return found
