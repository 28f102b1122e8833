# SPDX-License-Identifier: Apache-2.0
"""Probability of answers, exp(-mean NLL of the answer's tokens), mean over answers.

The end of the text is one of the tokens, as TOFU defines it.
"""

import dataclasses

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import bootstrap_mean
from jax_surgery.metrics.tokens import TextScores, score_texts
from jax_surgery.models.model import Model

UNSPLIT = 1 << 30  # tokens; a context that splits nothing


def score_answers(model: Model, probe: Probe) -> TextScores:
    """Scores the tokens of whole answers.

    Raises:
      ValueError: a question-answer pair that does not fit the context.
    """
    whole = dataclasses.replace(probe, context=UNSPLIT)
    documents = whole.encoded(model.tokenizer).documents
    long = [d for d in documents if len(d.tokens) > probe.context]
    if long:
        raise ValueError(
            f"{len(long)} of {len(documents)} question-answer pairs are longer than "
            f"config.data.context={probe.context} tokens, first {long[0].origin} with "
            f"{len(long[0].tokens)}; raise config.data.context."
        )
    return score_texts(model, dataclasses.replace(probe, documents=documents))


def _estimate(scores: TextScores, probe: Probe) -> Estimate:
    del probe  # its chance is that of a token
    values = np.exp(scores.logp / scores.tokens)
    return Estimate(float(values.mean()), bootstrap_mean(values), len(values))


METRIC = Metric(
    name="answer_probability",
    direction="knows",
    unit="share",
    counts="texts",
    source="TOFU, arXiv 2401.06121, Section 2.2.2: P(a|q)^(1/|a|)",
    observe=score_answers,
    estimate=_estimate,
    protocol="teacher-forced likelihood",
    each=lambda scores, probe: scores.each(np.exp(scores.logp / scores.tokens)),
)
