# SPDX-License-Identifier: Apache-2.0
"""How likely a model finds texts: nats a token, of files and of a run's roles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data import records
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import encode
from jax_surgery.evaluation import multiple_choice
from jax_surgery.model import llama, logprobs, output_head
from jax_surgery.model.config import LlamaConfig
from jax_surgery.parallel import mesh as meshes

ROLE_ROWS = 32  # rows of a role that are read; enough for two digits


def file_nll(
    path: str,
    params: Any,
    config: LlamaConfig,
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


@functools.partial(jax.jit, static_argnums=(1, 3))
def _sums(params, config: LlamaConfig, batch, compute: llama.Compute):
    """Nats, tokens that are the most likely one, and tokens, summed over a batch."""
    hidden = llama.forward_packed(params, config, batch, compute=compute)
    shift = lambda a: jnp.pad(a[:, 1:], ((0, 0), (0, 1)))
    head = output_head.copies(params, compute)
    logp = logprobs.token_logprobs(hidden, head, shift(batch["tokens_BT"]))
    mask = shift(batch["weights_BT"]) > 0
    return -(mask * logp.logp_BT).sum(), (mask & logp.top_BT).sum(), mask.sum()


def known(
    params: Any, config: LlamaConfig, packer: Packer, compute: llama.Compute
) -> dict[str, Any]:
    """How well a role's text is known, over its first `ROLE_ROWS` packed rows.

    Returns:
      {"nll_per_token": nats, "memorised": share of tokens that the model finds the
      most likely ones (exact memorisation), "tokens": count}.
    """
    rows = packer.pack().take(slice(ROLE_ROWS))
    nll = top = count = 0.0
    for batch, _ in one_pass(rows, meshes.round_rows(min(ROLE_ROWS, len(rows)))):
        device = {k: v for k, v in batch.items() if k != "token_index_BT"}
        sums = _sums(params, config, device, compute)
        nll, top, count = (a + float(b) for a, b in zip((nll, top, count), sums))
    return {
        "nll_per_token": nll / count,
        "memorised": top / count,
        "tokens": int(count),
    }
