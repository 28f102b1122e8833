# SPDX-License-Identifier: Apache-2.0
"""How well a model knows texts, of files and of a run's roles, as results.json has it."""

import itertools
from typing import Any

import numpy as np

from jax_surgery.data import records
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.metrics import exact_memorisation, nats_per_token
from jax_surgery.metrics.base import measure
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

ROLE_ROWS = 32  # rows of a role that are read; enough for two digits


def file_nll(model: Model, path: str, context: int) -> dict[str, Any]:
    """Negative log-likelihood of a JSONL file's learned tokens.

    Returns:
      {"nll_per_token": nats, "tokens": count, "documents": nll sum of each line, nats
      (a text longer than the context is split, and its pieces added up)}.

    Raises:
      FileNotFoundError, ValueError: see `records.read_source`.
    """
    rows = tuple(records.read_source(path))
    scores = score_texts(model, Probe(path, context, records=rows))
    place = {record.origin: i for i, record in enumerate(rows)}
    by_line = np.zeros(len(rows))
    by_line[[place[origin] for origin in scores.origins]] = -scores.logp
    tokens = int(scores.tokens.sum())
    return {
        "nll_per_token": float(by_line.sum() / tokens),
        "tokens": tokens,
        "documents": by_line.tolist(),
    }


def known(model: Model, packer: Packer) -> dict[str, Any]:
    """How well a role's text is known, over what its first `ROLE_ROWS` rows hold.

    Returns:
      {"nll_per_token": nats, "memorised": share of tokens that the model finds the
      most likely ones (exact memorisation), "tokens": count}.
    """
    rows = packer.pack(most=ROLE_ROWS)
    # Of a text and its alternative the text alone.
    own = slice(None, None, packer.group)
    held = np.isin(packer.starts[own], rows.token_index_BT)
    documents = tuple(itertools.compress(packer.documents[own], held))
    probe = Probe("", packer.context, documents=documents)
    nats, exact = nats_per_token.METRIC, exact_memorisation.METRIC
    found = measure((nats, exact), model, probe)
    return {
        "nll_per_token": found[nats.name].value,
        "memorised": found[exact.name].value,
        "tokens": found[nats.name].n,
    }
