# SPDX-License-Identifier: Apache-2.0
"""Which of several answers to a question a model finds the likeliest."""

import itertools
from collections.abc import Sequence

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import encode_whole, without_end
from jax_surgery.metrics.one_pass import score_documents
from jax_surgery.models.model import Model


def ranks(model: Model, of: Sequence[Sequence[Record]]) -> list[list[int]]:
    """The places of each question's answers, the likeliest first, by the sum of their
    tokens' log-probabilities without the end of the text.

    Args:
      of: of each question, records that differ in their answer; none may be without one.
    """
    records = [*itertools.chain(*of)]
    if not records:
        return [[] for _ in of]
    ends = end_tokens(model.tokenizer)
    encoded = encode_whole(records, model.tokenizer)
    scores = score_documents(model, [without_end(one, ends) for one in encoded])
    logp = np.split(
        -scores.loss * scores.tokens, np.cumsum([len(one) for one in of])[:-1]
    )
    return [np.argsort(-own, kind="stable").tolist() for own in logp]
