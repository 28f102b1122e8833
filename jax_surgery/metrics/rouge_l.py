# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L recall of a model's greedy answers against the reference answers."""

from collections.abc import Sequence

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode_whole
from jax_surgery.metrics.base import Each, Estimate, Metric
from jax_surgery.metrics.continuations import greedy_replies
from jax_surgery.metrics.intervals import bootstrap_mean
from jax_surgery.models.model import Model

MAX_NEW_TOKENS = 128


def greedy_answers(model: Model, probe: Probe) -> tuple[str, ...]:
    """`write_answers` to a probe's records, of at most `MAX_NEW_TOKENS`.

    Raises:
      ValueError: there are no records.
    """
    if not probe.records:
        raise ValueError(
            f"the probe {probe.group!r} has no records, to whose prompts rouge_l needs "
            "answers; name a metric of questions, such as multiple_choice."
        )
    return write_answers(model, probe.records, MAX_NEW_TOKENS)


def write_answers(
    model: Model, records: Sequence[Record], new_tokens: int
) -> tuple[str, ...]:
    """The model's greedy answer to every record's prompt: the tokens before what is
    learned, of a chat before the assistant's last message.

    Args:
      new_tokens: of an answer, at most.
    """
    asked = [d.prompt.tolist() for d in encode_whole(records, model.tokenizer)]
    return tuple(text.strip() for text in greedy_replies(model, asked, new_tokens))


def recalls(answers: Sequence[str], records: Sequence[Record]) -> np.ndarray:
    """ROUGE-L recall of each answer, words stemmed, float64 [records]."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(records, answers, strict=True)
    return np.array(
        [scorer.score(r.said.strip(), a)["rougeL"].recall for r, a in pairs]
    )


def f_measures(wanted: Sequence[str], said: Sequence[str]) -> np.ndarray:
    """ROUGE-L F1 of each text, words not stemmed, float64 [texts]."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(wanted, said, strict=True)
    return np.array([scorer.score(w, s)["rougeL"].fmeasure for w, s in pairs])


def _estimate(answers: tuple[str, ...], probe: Probe) -> Estimate:
    values = recalls(answers, probe.records)
    return Estimate(float(values.mean()), bootstrap_mean(values), len(values))


def _each(answers: tuple[str, ...], probe: Probe) -> Each:
    ids = [r.origin or str(i) for i, r in enumerate(probe.records)]
    return Each(ids, recalls(answers, probe.records).tolist(), ids)


METRIC = Metric(
    name="rouge_l",
    direction="knows",
    unit="share",
    counts="texts",
    source="Lin 2004, ROUGE-L recall with stemming, as TOFU takes it (arXiv 2401.06121)",
    observe=greedy_answers,
    estimate=_estimate,
    protocol="free generation",
    each=_each,
)
