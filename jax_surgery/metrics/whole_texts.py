# SPDX-License-Identifier: Apache-2.0
"""Records as packed rows, and what is found of their tokens, text by text."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode
from jax_surgery.metrics import membership
from jax_surgery.metrics.tokens import BATCH_ROWS, learned_statistics
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True, eq=False)
class WholeTexts:
    """Texts of which some tokens are asked, whatever pieces they are packed in.

    Attributes:
      packer: the pieces.
      rows: them as packed rows, whose `weights_BT` are above 0 at tokens that are asked.
      text_of: of each piece the number of its text, int64 [pieces].
      ends: whether a token is the end of a text (eos, or what closes a turn), bool
        [tokens of the corpus].
    """

    packer: Packer
    rows: Batch
    text_of: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.text_of[-1]) + 1

    @functools.cached_property
    def asked(self) -> np.ndarray:
        """Places of the asked tokens in the corpus, int64."""
        return np.flatnonzero(self.packer.learned)

    @functools.cached_property
    def owners(self) -> np.ndarray:
        """The text of each asked token, int64, rising."""
        piece = np.searchsorted(self.packer.starts, self.asked, "right") - 1
        return self.text_of[piece]

    def each(self, values: np.ndarray) -> list[np.ndarray]:
        """Values of the asked tokens of each text.

        Args:
          values: of every token of the corpus, [tokens, ...].
        """
        cuts = np.searchsorted(self.owners, np.arange(1, len(self)))
        return np.split(values[self.asked], cuts)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean over the asked tokens of each text, float64 [texts].

        Args:
          values: of every token of the corpus, [tokens].
        """
        sums = np.bincount(self.owners, values[self.asked].astype(np.float64))
        return sums / np.bincount(self.owners)

    def pieces(self) -> list[list[Document]]:
        """The pieces of each text."""
        found: list[list[Document]] = [[] for _ in range(len(self))]
        for number, document in zip(self.text_of, self.packer.documents, strict=True):
            found[number].append(document)
        return found


def whole_texts(
    records: Sequence[Record], model: Model, context: int, ends: bool = True
) -> WholeTexts:
    """Records as texts, without those of which nothing can be asked.

    Args:
      context: tokens of a row; longer texts are split.
      ends: whether the end of a text is asked too.

    Raises:
      ValueError: see `tokens.encode`.
    """
    documents = encode(records, model.tokenizer, context)
    stops = list(end_tokens(model.tokenizer))
    if not ends:
        documents = [_without_end(document, stops) for document in documents]
        documents = [document for document in documents if document.targets]
    packer = Packer(documents, context, "tokens")
    # Pieces of a text follow each other, and a record has one origin.
    origins = [d.origin or str(i) for i, d in enumerate(documents)]
    new = [i > 0 and o != origins[i - 1] for i, o in enumerate(origins)]
    tokens = np.concatenate([document.tokens for document in documents])
    return WholeTexts(packer, packer.pack(), np.cumsum(new), np.isin(tokens, stops))


def _without_end(document: Document, stops: list[int]) -> Document:
    asked = document.learned & ~np.isin(document.tokens, stops)
    return dataclasses.replace(document, learned=asked)


def membership_scores(
    model: Model, texts: WholeTexts, share: float = membership.SHARE
) -> dict[str, np.ndarray]:
    """Scores of each text that one forward pass gives, float64 [texts].

    As open-unlearning does, `loss` and `zlib` are of all asked tokens, and `min_k` and
    `min_k_plus_plus` leave the end of the text out (unless it is all there is).

    Args:
      share: of a text's tokens that the latter two take.

    Returns:
      {"loss", "zlib", "min_k", "min_k_plus_plus"}, see `metrics.membership`.
    """
    count = meshes.round_rows(BATCH_ROWS)
    found = learned_statistics(model, texts.rows, texts.packer.num_tokens, count)
    tokens = np.concatenate([document.tokens for document in texts.packer.documents])
    scores: dict[str, list[float]] = {}
    of_tokens = (found.logp, found.mean, found.variance)
    columns = (*of_tokens, texts.ends, tokens)
    for logp, mean, variance, ends, ids in zip(*map(texts.each, columns), strict=True):
        said = ~ends if not ends.all() else ends
        text = model.tokenizer.decode(ids[said], skip_special_tokens=True)
        loss, of = membership.loss(logp), (logp[said], mean[said], variance[said])
        for name, value in (
            ("loss", loss),
            ("zlib", membership.over_zlib(loss, text)),
            ("min_k", membership.min_k(of[0], share)),
            ("min_k_plus_plus", membership.min_k_plus_plus(*of, share)),
        ):
            scores.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in scores.items()}
