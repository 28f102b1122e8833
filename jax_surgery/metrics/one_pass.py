# SPDX-License-Identifier: Apache-2.0
"""Scores of whole texts, all from one forward pass over packed rows.

    scores = score_documents(model, documents)
    scores.loss, scores.zlib, scores.min_k, scores.min_k_plus_plus    # [documents]

Probability, loss and zlib are of all learned tokens, the end of the text among them;
the others leave the end out, as open-unlearning does. Answers to a question
that follow each other read it once (`data.branches`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_surgery.data.branches import pack_branches
from jax_surgery.data.forms import Record
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode_whole, without_end
from jax_surgery.metrics import membership
from jax_surgery.metrics.membership import SHARE
from jax_surgery.metrics.tokens import Statistics, learned_statistics
from jax_surgery.models import attention_kernels
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

ROW_TOKENS = 512  # of a row, at least; its multiples hold longer documents
BATCH_TOKENS = 1 << 14  # of a forward pass, about


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentScores:
    """Scores of documents, float64 [documents].

    Attributes:
      loss: mean negative log-likelihood of the learned tokens, nats.
      zlib: loss over the bytes of the learned text that zlib has compressed (Carlini et
        al. 2021, arXiv 2012.07805).
      min_k: -mean log p of the `SHARE` least likely tokens (Shi et al. 2024, arXiv
        2310.16789), nats.
      min_k_plus_plus: the same of (log p - mean) / deviation, of log p over the vocabulary
        (Zhang et al. 2024, arXiv 2404.02936).
      exact_memorisation: share of tokens that are the most likely ones (arXiv 2205.10770).
      extraction_strength: 1 - k/n, where k of n tokens must be given for greedy decoding
        to give the rest (arXiv 2012.07805, 2502.05374); 0 where it never does.
      tokens: learned tokens, the end among them.
    """

    loss: np.ndarray
    zlib: np.ndarray
    min_k: np.ndarray
    min_k_plus_plus: np.ndarray
    exact_memorisation: np.ndarray
    extraction_strength: np.ndarray
    tokens: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """exp(-loss), TOFU's P(a|q)^(1/|a|)."""
        return np.exp(-self.loss)

    def take(self, places: np.ndarray | slice) -> "DocumentScores":
        """The scores of some of the documents."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return DocumentScores(*(value[places] for value in values))


def _token_statistics(model: Model, documents: Sequence[Document]) -> Statistics:
    """Of each token of the documents laid end to end (see `learned_statistics`)."""
    longest = max(len(document.tokens) for document in documents)
    context = -(-longest // ROW_TOKENS) * ROW_TOKENS
    compute, kind = model.compute, model.compute.attention
    share = kind in ("auto", "xla") and attention_kernels.shares_beginnings(
        "xla", model.config, compute.dtype, context
    )
    rows = pack_branches(documents, context, share)
    if rows.begins_BT is not None:
        compute = dataclasses.replace(compute, attention="xla")
    total = sum(len(document.tokens) for document in documents)
    most = max(1, BATCH_TOKENS // context)
    batches = -(-len(rows) // most)
    count = meshes.round_rows(-(-len(rows) // batches))
    return learned_statistics(model, rows, total, count, compute)


def score_documents(
    model: Model, documents: Sequence[Document], share: float = SHARE
) -> DocumentScores:
    """Scores documents by one forward pass.

    Args:
      documents: each with a learned token at least, of any length; answers to one question
        should follow each other.
      share: of a text's tokens that `min_k` and `min_k_plus_plus` take.

    Raises:
      ValueError: no documents, one that has nothing learned, or a model whose losses are
        no numbers.
    """
    for document in documents:
        if not document.targets:
            raise ValueError(
                f"{document.origin or 'a document'} has no learned token that another "
                "one predicts, so there is nothing to score; leave it out."
            )
    found = _token_statistics(model, documents)
    ends, scores = end_tokens(model.tokenizer), []
    stops = np.cumsum([len(document.tokens) for document in documents])
    said = [_learned(without_end(document, ends)) for document in documents]
    texts = model.tokenizer.batch_decode(
        [document.tokens[own] for document, own in zip(documents, said, strict=True)],
        skip_special_tokens=True,
    )
    for document, stop, own, text in zip(documents, stops, said, texts, strict=True):
        start = stop - len(document.tokens)
        logp, top, mean, variance = (values[start:stop][own] for values in found)
        loss = -found[0][start:stop][_learned(document)].mean(dtype=np.float64)
        wrong = np.flatnonzero(top == 0)
        scores.append(
            (
                loss,
                membership.over_zlib(loss, text),
                membership.min_k(logp, share),
                membership.min_k_plus_plus(logp, mean, variance, share),
                top.mean(dtype=np.float64),
                1 - (wrong[-1] + 1) / len(top) if len(wrong) else 1.0,
                document.targets,
            )
        )
    columns = np.asarray(scores, np.float64).T
    if not np.isfinite(columns).all():
        broken = int((~np.isfinite(columns)).any(0).sum())
        raise ValueError(
            f"the scores of {broken} of {len(documents)} texts are no finite numbers; the "
            f"weights of {model.source or 'the model'} have diverged."
        )
    return DocumentScores(*columns)


def _learned(document: Document) -> np.ndarray:
    """Which tokens are learned and predicted, bool."""
    learned = document.learned.copy()
    learned[0] = False
    return learned


def score_records(
    model: Model, records: Sequence[Record], share: float = SHARE
) -> DocumentScores:
    """`score_documents` of records, each whole.

    Raises:
      ValueError: see `score_documents` and `tokens.encode_whole`.
    """
    return score_documents(model, encode_whole(records, model.tokenizer), share)
