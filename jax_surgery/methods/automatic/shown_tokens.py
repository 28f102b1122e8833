# SPDX-License-Identifier: Apache-2.0
"""The tokens of a few records with the knowledge that they carry, for reports."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic.never_knew import Targets

SHOWN = 12  # records whose tokens a report colours


class ShownToken(NamedTuple):
    """A token of a report.

    Attributes:
      text: as it stands in the record's text.
      knowledge: nats.
      carries: whether it carries knowledge.
    """

    text: str
    knowledge: float
    carries: bool


def shown(
    tokenizer: Any,
    documents: Sequence[Document],
    targets: Targets,
    count: int,
) -> list[tuple[str, list[ShownToken]]]:
    """(origin, learned tokens) of a few documents, spread evenly over those that carry
    knowledge.

    Args:
      documents: that `targets` are of.
      count: documents, at most.
    """
    starts = np.cumsum([0, *(len(document.tokens) for document in documents)])
    telling = [
        number
        for number, (start, stop) in enumerate(itertools.pairwise(starts))
        if targets.carries[start:stop].any()
    ]
    places = np.linspace(0, len(telling) - 1, min(count, len(telling)))
    found = []
    for number in [telling[round(place)] for place in places]:
        document, start = documents[number], starts[number]
        learned = np.flatnonzero(document.learned[1:]) + 1
        texts = texts_of(tokenizer, document.tokens[learned].tolist())
        of_document = [
            ShownToken(
                text,
                float(targets.knowledge[start + place]),
                bool(targets.carries[start + place]),
            )
            for text, place in zip(texts, learned, strict=True)
        ]
        found.append((document.origin, of_document))
    return found


def marked(
    tokenizer: Any,
    documents: Sequence[Document],
    targets: Targets,
    asked: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Tokens of some documents with the nats of knowledge that they carry, as
    `report.page.Page` shows them.

    Args:
      documents: that `targets` are of.
      asked: what the record of each origin asks, where it asks something.
    """
    return [
        {
            "about": asked.get(origin, origin),
            "tokens": [(t.text, t.knowledge if t.carries else 0.0) for t in tokens],
        }
        for origin, tokens in shown(tokenizer, documents, targets, SHOWN)
    ]


def texts_of(tokenizer: Any, ids: list[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at its
    last."""
    found, before = [], ""
    for stop in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False)
        if so_far.endswith("\ufffd"):
            found.append("")
            continue
        found.append(so_far[len(before) :])
        before = so_far
    return found
