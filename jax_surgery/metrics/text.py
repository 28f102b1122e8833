# SPDX-License-Identifier: Apache-2.0
"""How likely a model finds texts: nats a token, of files and of a run's roles."""

from typing import Any

import numpy as np

from jax_surgery.data import records
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.tokens import score_tokens
from jax_surgery.models import llama
from jax_surgery.models.config import ModelConfig

ROLE_ROWS = 32  # rows of a role that are read; enough for two digits


def file_nll(
    path: str,
    params: Any,
    config: ModelConfig,
    tokenizer: Any,
    context: int,
    compute: llama.Compute,
) -> dict[str, Any]:
    """Negative log-likelihood of a JSONL file's learned tokens.

    Returns:
      {"nll_per_token": nats, "tokens": count, "documents": nll sum of each line, nats
      (a text longer than the context is split, and its pieces added up)}.

    Raises:
      FileNotFoundError, ValueError: see `records.read_source`.
    """
    rows = records.read_source(path)
    documents = encode(rows, tokenizer, context)
    sums = -multiple_choice.document_sums(params, config, documents, context, compute)
    place = {record.origin: i for i, record in enumerate(rows)}
    by_line = np.zeros(len(rows))
    tokens = 0
    for document, value in zip(documents, sums, strict=True):
        by_line[place[document.origin]] += value
        tokens += int(document.learned[1:].sum())
    return {
        "nll_per_token": float(by_line.sum() / tokens),
        "tokens": tokens,
        "documents": by_line.tolist(),
    }


def known(
    params: Any, config: ModelConfig, packer: Packer, compute: llama.Compute
) -> dict[str, Any]:
    """How well a role's text is known, over its first `ROLE_ROWS` packed rows.

    Returns:
      {"nll_per_token": nats, "memorised": share of tokens that the model finds the
      most likely ones (exact memorisation), "tokens": count}.
    """
    rows = packer.pack().take(slice(ROLE_ROWS))
    size = min(ROLE_ROWS, len(rows))
    found = score_tokens(
        *(params, config, packer, compute, "logp", "top"), rows=rows, batch_rows=size
    )
    learned = rows.token_index_RT[rows.weights_RT > 0]
    return {
        "nll_per_token": -float(found["logp"][learned].mean(dtype=np.float64)),
        "memorised": float(found["top"][learned].mean(dtype=np.float64)),
        "tokens": len(learned),
    }
