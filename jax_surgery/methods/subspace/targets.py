# SPDX-License-Identifier: Apache-2.0
"""Targets' text: which way each of its tokens is to go, and how far."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.identify import chance_odds
from jax_surgery.methods.subspace.work import Work

# Nats of log-odds: where unlearning ends (those of chance, where the group says it),
# where learning ends, and how far an answer in another's place is raised.
UNLEARNED, LEARNED, OVERWRITTEN = -3.0, 6.0, 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class TargetText:
    """Targets' text and where each of its tokens is to go.

    Attributes:
      packer: the text; each group's is there about as often.
      weights: of each token of it: 1 to be unlearned, -1 to be learned.
      log_odds: nats of log-odds at which a token becomes inactive.
    """

    packer: Packer
    weights: np.ndarray
    log_odds: np.ndarray


def repeated(groups: Sequence[list[Any]]) -> list[Any]:
    """Members of groups, each group about as often as the largest one has them."""
    most = max((len(group) for group in groups), default=0)
    return [d for group in groups if group for d in (group * -(-most // len(group)))]


def target_text(
    work: Work, names: list[str], *, learn: bool, half: int | None = None
) -> TargetText:
    """Targets' text, to be learned or to be unlearned.

    With the method's `overwrite`, another text's answer is learned in the place of what
    is unlearned.

    Args:
      names: of groups.
      half: 0 or 1, of each group's text; None is all.
    """
    groups = []
    for name in names:
        documents = work.texts[name].documents
        if half is not None:
            documents = documents[half::2]
        if learn:
            groups.append([(d, -1.0, LEARNED) for d in documents])
            continue
        chance = work.texts[name].chance
        log_odds = chance_odds(chance) if chance else UNLEARNED
        group = [(d, 1.0, log_odds) for d in documents]
        if share := work.how.subspace.overwrite:
            group += [(d, -share, OVERWRITTEN) for d in overwritten(work, name)]
        groups.append(group)
    found = repeated(groups)
    documents = [document for document, _, _ in found]
    tables = [
        np.concatenate(
            [np.full(len(row[0].tokens), row[i], np.float32) for row in found]
        )
        for i in (1, 2)
    ]
    return TargetText(Packer(documents, work.how.tasks.context, "tokens"), *tables)


def overwritten(work: Work, name: str) -> list[Document]:
    """A group's text, each with the answer of another one, drawn with the seed.

    The shorter of two answers says how many tokens are exchanged.

    Raises:
      ValueError: all of them have the same answer.
    """
    documents = work.texts[name].documents
    order = np.random.default_rng((work.how.seed, 1)).permutation(len(documents))
    found = []
    answers = [tuple(d.tokens[d.learned].tolist()) for d in documents]
    for place, here in enumerate(order):
        # The next one of the cycle that says something else.
        later = (order[(place + k) % len(order)] for k in range(1, len(order)))
        there = next((i for i in later if answers[i] != answers[here]), None)
        if there is None:
            raise ValueError(
                f"config.method=subspace:overwrite={work.how.subspace.overwrite:g}: all "
                f"{len(documents)} texts of {name!r} have one answer, so there is no "
                "other to put in its place; use overwrite=0."
            )
        document, other = documents[here], documents[there]
        own, new = np.flatnonzero(document.learned), np.flatnonzero(other.learned)
        count = min(len(own), len(new))
        tokens = document.tokens.copy()
        tokens[own[:count]] = other.tokens[new[:count]]
        found.append(Document(tokens, document.learned, document.origin))
    return found
