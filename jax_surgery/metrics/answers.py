# SPDX-License-Identifier: Apache-2.0
"""How many of the tokens of answers a model gets right, each given those before it."""

import dataclasses
from typing import Any

import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.metrics.tokens import score_tokens
from jax_surgery.models import llama
from jax_surgery.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Of each document.

    Attributes:
      right: learned tokens that the model finds the most likely ones, [documents].
      tokens: learned tokens, [documents].
      logp: their log-probabilities' sum, nats, [documents].
    """

    right: np.ndarray
    tokens: np.ndarray
    logp: np.ndarray

    @property
    def accuracy(self) -> float:
        """Of tokens."""
        return float(self.right.sum() / self.tokens.sum())

    @property
    def exact(self) -> float:
        """Share of documents of which every token is right."""
        return float((self.right == self.tokens).mean())


def score_answers(
    params: Any,
    config: ModelConfig,
    documents: list[Document],
    context: int,
    compute: llama.Compute,
) -> AnswerScores:
    """Scores the learned tokens of documents; none may be longer than `context`."""
    packer = Packer(documents, context, "tokens")
    found = score_tokens(params, config, packer, compute, "top", "logp")
    return AnswerScores(
        packer.sums(found["top"]),
        packer.sums(packer.learned),
        packer.sums(found["logp"]),
    )
