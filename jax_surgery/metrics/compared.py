# SPDX-License-Identifier: Apache-2.0
"""Answers compared by their likelihood per token, as CounterFact compares them."""

import dataclasses

import numpy as np

from jax_surgery.data import prompts
from jax_surgery.data.probes import Probe
from jax_surgery.metrics import multiple_choice
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True)
class Compared:
    """Likelihoods of right answers and of the likeliest others.

    Attributes:
      right, other: mean log p per token of the answer, nats, float64 [questions].
    """

    right: np.ndarray
    other: np.ndarray


def compare(model: Model, probe: Probe) -> Compared:
    """Compares the options of a probe's questions.

    Raises:
      ValueError: see `multiple_choice.answer`.
    """
    answers = multiple_choice.answer(model, probe)
    as_chat = prompts.asks_as_chat(model.tokenizer, probe.chat)
    documents = multiple_choice.encode_options(
        probe.questions, model.tokenizer, as_chat
    )
    counts = iter([max(document.targets, 1) for document in documents])
    right, other = [], []
    for question, sums in zip(probe.questions, answers.logprobs, strict=True):
        per_token = np.array([one / next(counts) for one in sums])
        right.append(per_token[question.answer])
        other.append(np.delete(per_token, question.answer).max())
    if not np.isfinite([right, other]).all():
        raise ValueError(
            f"some answers of {probe.group!r} have no finite log-probability; the weights "
            f"of {model.source or 'the model'} hold values that are no numbers."
        )
    return Compared(np.array(right), np.array(other))
