# SPDX-License-Identifier: Apache-2.0
"""Whether a model knows the language of the packaged general text.

Text is retained because a model knows it. What a model of another language, or of a small
world of its own, says of the packaged text is noise that lies near everything else it
says, and to hold it in place costs most of a budget. Such a model predicts the text worse
than somebody who knows nothing but how often each of its tokens occurs:

    nats per token of the model  >=  H(n) = -sum_y n_y / N log(n_y / N)

where n_y of N tokens are y.
"""

import warnings
from typing import NamedTuple

import numpy as np

from jax_surgery.data import asked
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

PASSAGES = 16  # that are read, of many kinds
CONTEXT = 256  # tokens


class Fit(NamedTuple):
    """Nats per token of packaged passages.

    Attributes:
      model: by the model.
      frequencies: by how often each token occurs in these passages.
    """

    model: float
    frequencies: float

    @property
    def known(self) -> bool:
        """Whether the model knows the language."""
        return self.model < self.frequencies


def fit(model: Model) -> Fit:
    """How well a model predicts the first of the packaged passages."""
    texts = asked.trained_passages()[:PASSAGES]
    records = tuple(Record("", t, (), f"general:{i}") for i, t in enumerate(texts))
    with warnings.catch_warnings():  # no text of the user's is split
        warnings.filterwarnings("ignore", "[\\s\\S]*texts are longer than the context")
        scores = score_texts(model, Probe("general", CONTEXT, records=records))
        documents = encode(list(records), model.tokenizer, CONTEXT)
    learned = np.concatenate([d.tokens[1:][d.learned[1:]] for d in documents])
    counts = np.unique(learned, return_counts=True)[1]
    shares = counts / counts.sum()
    return Fit(
        -float(scores.logp.sum() / scores.tokens.sum()),
        -float((shares * np.log(shares)).sum()),
    )
