# SPDX-License-Identifier: Apache-2.0
"""MUSE's membership inference: how likely the least likely tokens of texts are.

Texts that a model has read and texts like them that it has not; the AUC is the share of
pairs in which the latter have the more likely worst tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import encode_whole, without_end
from jax_surgery.metrics import membership, separation
from jax_surgery.metrics.intervals import DRAWS
from jax_surgery.metrics.membership import SHARE
from jax_surgery.metrics.tokens import score_tokens
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Membership:
    """Mean log p of the least likely tokens of each text, nats.

    Attributes:
      read: of texts that are to be told from others, [texts].
      others: of texts that no model has read, [texts].
    """

    read: np.ndarray
    others: np.ndarray


def least_likely(
    model: Model, records: Sequence[Record], context: int, share: float = SHARE
) -> np.ndarray:
    """Mean log p of the least likely tokens of each text, nats, float64 [records].

    Raises:
      ValueError: a text that does not fit the context: pieces have scores of their own.
    """
    ends = end_tokens(model.tokenizer)
    whole = encode_whole(records, model.tokenizer)
    documents = [without_end(document, ends) for document in whole]
    long = [d for d in documents if len(d.tokens) > context]
    if long:
        raise ValueError(
            f"{len(long)} of {len(documents)} texts are longer than config.data.context="
            f"{context} tokens, first {long[0].origin} with {len(long[0].tokens)}; raise "
            "config.data.context."
        )
    packer = Packer(documents, context, "tokens")
    logp = score_tokens(model, packer, "logp")["logp"].astype(np.float64)
    pieces = np.split(np.arange(packer.num_tokens), packer.starts[1:])
    found = []
    for document, piece in zip(documents, pieces, strict=True):
        own = logp[piece][packer.learned[piece]]
        if not len(own):
            raise ValueError(
                f"{document.origin} has no token that another one predicts, so nothing "
                "can be told of it; leave it out."
            )
        found.append(-membership.min_k(own, share))
    if not np.isfinite(found).all():
        raise ValueError(
            f"some of {len(found)} texts have no finite log-probability; the weights of "
            f"{model.source or 'the model'} hold values that are no numbers."
        )
    return np.array(found)


def observe(model: Model, probe: Probe) -> Membership:
    """Scores a probe's records and the others.

    Raises:
      ValueError: it has none of the one or the other; or see `least_likely`.
    """
    if not probe.records or not probe.others:
        raise ValueError(
            f"the probe {probe.group!r} has {len(probe.records)} records and "
            f"{len(probe.others)} texts that no model has read; min_k_auc and privleak "
            "need both, so name another metric."
        )
    return Membership(
        least_likely(model, probe.records, probe.context),
        least_likely(model, probe.others, probe.context),
    )


def wins(found: Membership) -> np.ndarray:
    """Of each pair whether the other text is the likelier one, 0.5 of a tie,
    [read, others]."""
    higher = found.others > found.read[:, None]
    return higher + 0.5 * (found.others == found.read[:, None])


def auc(found: Membership) -> float:
    """The AUC by which texts that were read have the lower value."""
    return float(separation.auc(found.read, found.others))


def resampled(models: Sequence[Membership], seed: int = 0) -> np.ndarray:
    """AUCs of models on the same resamples of the texts, [models, draws].

    Args:
      models: observed on the same texts.
      seed: of the resamples.
    """
    rng, tables = np.random.default_rng(seed), [wins(found) for found in models]
    read, others = tables[0].shape
    counts = [
        rng.multinomial(size, np.full(size, 1 / size), DRAWS) / size
        for size in (read, others)
    ]
    return np.stack([((counts[0] @ t) * counts[1]).sum(1) for t in tables])
