# SPDX-License-Identifier: Apache-2.0
"""MUSE's VerbMem: ROUGE-L F1 of the greedy continuation and the text's own next tokens."""

import numpy as np

from jax_surgery.data.probes import Probe
from jax_surgery.metrics import cases
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.continuations import continuations
from jax_surgery.metrics.rouge_l import f_measures
from jax_surgery.models.model import Model

NEW_TOKENS = 128


def observe(model: Model, probe: Probe) -> np.ndarray:
    """ROUGE-L F1 of each continuation, float64 [records].

    Raises:
      ValueError: see `continuations`.
    """
    said = continuations(model, probe, NEW_TOKENS, "verbmem")
    # As the authors do: special tokens count among the first.
    encode, decode = model.tokenizer, model.tokenizer.decode
    wanted = [
        decode(encode(record.said)["input_ids"][:NEW_TOKENS], skip_special_tokens=True)
        for record in probe.records
    ]
    return f_measures(wanted, said)


def _estimate(scores: np.ndarray, probe: Probe) -> Estimate:
    return cases.estimate(scores, probe)


METRIC = Metric(
    name="verbmem",
    direction="knows",
    unit="share",
    counts="texts",
    source="MUSE, arXiv 2407.06460, as the authors' code computes it: 128 new "
    "tokens, words not stemmed",
    observe=observe,
    estimate=_estimate,
    protocol="free generation",
    each=cases.each,
)
