# SPDX-License-Identifier: Apache-2.0
"""How many of the tokens of answers a model gets right, each given those before it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.model import llama, logprobs, output_head
from jax_surgery.model.config import LlamaConfig
from jax_surgery.parallel import mesh as meshes

BATCH_ROWS = 8  # rows of a forward pass, at least


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


@functools.partial(jax.jit, static_argnums=(1, 3))
def _of_rows(params, config: LlamaConfig, batch, compute: llama.Compute):
    """Of each token after what precedes it: whether it is the most likely one, its
    log p and its log-odds."""
    hidden = llama.forward_packed(params, config, batch, compute=compute)
    targets_BT = jnp.pad(batch["tokens_BT"][:, 1:], ((0, 0), (0, 1)))
    head = output_head.copies(params, compute)
    found = logprobs.token_logprobs(hidden, head, targets_BT)
    back = lambda a: jnp.pad(a[:, :-1], ((0, 0), (1, 0)))
    return tuple(map(back, (found.top_BT, found.logp_BT, found.margin_BT)))


def score_answers(
    params: Any,
    config: LlamaConfig,
    documents: list[Document],
    context: int,
    compute: llama.Compute,
) -> AnswerScores:
    """Scores the learned tokens of documents; none may be longer than `context`."""
    packed = Packer(documents, context, "tokens").pack()
    ends = np.cumsum([len(d.tokens) for d in documents])
    right, logp = np.zeros(len(documents)), np.zeros(len(documents))
    for batch, _ in one_pass(packed, meshes.round_rows(BATCH_ROWS)):
        index_BT = batch["token_index_BT"]
        device = {k: v for k, v in batch.items() if k != "token_index_BT"}
        found = _of_rows(params, config, device, compute)
        top_BT, logp_BT = map(meshes.fetch, found[:2])
        learned = batch["weights_BT"] > 0
        owner = np.searchsorted(ends, index_BT[learned], side="right")
        np.add.at(right, owner, top_BT[learned])
        np.add.at(logp, owner, logp_BT[learned].astype(np.float64))
    return AnswerScores(right, np.array([d.targets for d in documents]), logp)


def token_margins(
    params: Any, config: LlamaConfig, packer: Packer, compute: llama.Compute
) -> np.ndarray:
    """Log-odds of each token of a corpus after what precedes it, nats, [tokens].

    Of the first token of a document they mean nothing.
    """
    margins = np.zeros(packer.num_tokens, np.float32)
    for batch, _ in one_pass(packer.pack(), meshes.round_rows(BATCH_ROWS)):
        index_BT = batch["token_index_BT"]
        device = {k: v for k, v in batch.items() if k != "token_index_BT"}
        margin_BT = meshes.fetch(_of_rows(params, config, device, compute)[2])
        margins[index_BT[index_BT >= 0]] = margin_BT[index_BT >= 0]
    return margins
