# SPDX-License-Identifier: Apache-2.0
"""How well a model knows texts, of files and of a run's roles, as results.json has it."""

import itertools
from typing import Any

import numpy as np

from jax_surgery.data import records
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.metrics import exact_memorisation, nats_per_token
from jax_surgery.metrics.base import estimates
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

ROLE_ROWS = 32  # rows of a role that are read; enough for two digits


def file_nll(model: Model, path: str, context: int) -> dict[str, Any]:
    """Negative log-likelihood of a JSONL file's learned tokens.

    Returns:
      {"nll_per_token": nats, "interval": 95 %, over texts, "n": texts, "tokens": count,
      "documents": nll sum of each line, nats (a text longer than the context is split,
      and its pieces added up)}.

    Raises:
      FileNotFoundError, ValueError: see `records.read_source` and `Metric.measured`.
    """
    rows = tuple(records.read_source(path))
    probe = Probe(path, context, records=rows)
    scores = score_texts(model, probe)
    nats = nats_per_token.METRIC.measured(scores, probe)
    place = {record.origin: i for i, record in enumerate(rows)}
    by_line = np.zeros(len(rows))
    by_line[[place[origin] for origin in scores.origins]] = -scores.logp
    return {
        "nll_per_token": nats.value,
        "interval": list(nats.interval),
        "n": nats.n,
        "tokens": int(scores.tokens.sum()),
        "documents": by_line.tolist(),
    }


def known(model: Model, packer: Packer) -> dict[str, Any]:
    """How well a role's text is known, over what its first `ROLE_ROWS` rows hold.

    Returns:
      {"nll_per_token": nats, "memorised": share of tokens that the model finds the
      most likely ones (exact memorisation), "interval" and "memorised_interval": 95 %,
      over texts, "n": texts, "tokens": count}.
    """
    rows = packer.pack(most=ROLE_ROWS)
    # Of a text and its alternative the text alone.
    own = slice(None, None, packer.group)
    held = np.isin(packer.starts[own], rows.token_index_BT)
    documents = tuple(itertools.compress(packer.documents[own], held))
    probe = Probe("", packer.context, documents=documents)
    nats, exact = nats_per_token.METRIC, exact_memorisation.METRIC
    scores = score_texts(model, probe)
    found = estimates((nats, exact), {score_texts: scores}, probe)
    return {
        "nll_per_token": found[nats.name].value,
        "interval": list(found[nats.name].interval),
        "memorised": found[exact.name].value,
        "memorised_interval": list(found[exact.name].interval),
        "n": found[nats.name].n,
        "tokens": int(scores.tokens.sum()),
    }
