# SPDX-License-Identifier: Apache-2.0
"""Scores of each token of a text, given the tokens before it in its document."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.stream import one_pass
from jax_surgery.metrics.base import Each
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import at_targets, shifted
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

# Rows of a forward pass, at least: few of a short text, many of a long one.
BATCH_ROWS, MANY_ROWS = 8, 32

Kind = Literal["logp", "margin", "top"]


@functools.partial(jax.jit, static_argnums=(1, 3))
def _of_rows(params, config: ModelConfig, batch, compute: decoder.Compute):
    # All kinds, whichever are asked for: one program serves every reader.
    hidden = decoder.forward_packed(params, config, batch, compute=compute)
    targets_BT = jnp.pad(batch.tokens_BT[:, 1:], ((0, 0), (0, 1)))
    head = output_head.copies(params, config, compute)
    found = logprobs.token_logprobs(hidden, head, targets_BT)
    back = lambda a: jnp.pad(a[:, :-1], ((0, 0), (1, 0)))
    return {
        "logp": back(found.logp_BT),
        "margin": back(found.margin_BT),
        "top": back(found.top_BT),
    }


def score_tokens(
    model: Model,
    packer: Packer,
    *kinds: Kind,
    rows: Batch | None = None,
    batch_rows: int = BATCH_ROWS,
) -> dict[Kind, np.ndarray]:
    """Scores every token, or those of some rows.

    Args:
      packer: the corpus.
      kinds: "logp", nats; "margin", its log-odds, nats; "top", whether it is the most
        likely token.
      rows: of the corpus, packed; None packs all of it.
      batch_rows: of a forward pass, at least.

    Returns:
      {kind: float32 [tokens]}; 0 where no row has the token. Of the first token of a
      document they mean nothing.
    """
    found: dict[Kind, np.ndarray] = {
        kind: np.zeros(packer.num_tokens, np.float32) for kind in kinds
    }
    rows = packer.pack() if rows is None else rows
    for batch in one_pass(rows, meshes.round_rows(batch_rows), "scoring texts"):
        index_BT = np.asarray(batch.token_index_BT)
        real_BT = index_BT >= 0
        device = _of_rows(
            model.params, model.config, batch.for_devices(), model.compute
        )
        for kind, values in found.items():
            values[index_BT[real_BT]] = meshes.fetch(device[kind])[real_BT]
    return found


@functools.partial(jax.jit, static_argnums=(1, 3))
def _statistics_of_rows(params, config: ModelConfig, batch, compute: decoder.Compute):
    hidden = decoder.forward_packed(params, config, batch, compute=compute)
    targets_BT, learned_BT = shifted(batch.tokens_BT), shifted(batch.weights_BT) > 0
    head = output_head.copies(params, config, compute)
    found = logprobs.token_statistics(hidden, head, targets_BT, learned_BT)
    return jax.tree.map(at_targets, found)


class Statistics(NamedTuple):
    """Of each token of a corpus what `logprobs.TokenStatistics` holds, float32 [tokens]."""

    logp: np.ndarray
    top: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def learned_statistics(
    model: Model,
    rows: Batch,
    num_tokens: int,
    batch_rows: int,
    compute: decoder.Compute | None = None,
) -> Statistics:
    """What a model says of each learned token of a corpus, in one pass over its rows.

    Args:
      rows: packed.
      num_tokens: of the corpus.
      batch_rows: of a forward pass.
      compute: in place of the model's own.

    Returns:
      0 of tokens that are not learned.
    """
    found = Statistics(*np.zeros((4, num_tokens), np.float32))
    how = compute or model.compute
    for batch in one_pass(rows, batch_rows, "scoring texts"):
        learned_BT = batch.weights_BT > 0
        index = batch.token_index_BT[learned_BT]
        device = _statistics_of_rows(
            model.params, model.config, batch.for_devices(), how
        )
        for values, values_BT in zip(found, device, strict=True):
            values[index] = meshes.fetch(values_BT)[learned_BT]
    return found


@dataclasses.dataclass(frozen=True)
class TextScores:
    """Scores of texts; the pieces of a text longer than the context are added up.

    Attributes:
      right: learned tokens that are the most likely ones, of each text, [texts].
      tokens: learned tokens, [texts]; at least one of each.
      logp: sum of their log-probabilities, nats, [texts].
      origins: where the texts stand; of documents without an origin their place.
    """

    right: np.ndarray
    tokens: np.ndarray
    logp: np.ndarray
    origins: tuple[str, ...]

    def each(self, values: np.ndarray) -> Each:
        """A value of each text, as a metric gives them."""
        return Each(self.origins, values.astype(float).tolist(), self.origins)


def score_texts(model: Model, probe: Probe) -> TextScores:
    """Scores the learned tokens of a probe's text.

    Raises:
      ValueError: no text, or see `tokens.encode` and `Packer`.
    """
    documents = probe.encoded(model.tokenizer).documents
    if not documents:
        raise ValueError(
            f"the probe {probe.group!r} has no text; give it records or documents."
        )
    packer = Packer(documents, probe.context, "tokens")
    rows = packer.pack()
    batch_rows = MANY_ROWS if len(rows) >= MANY_ROWS else BATCH_ROWS
    found = score_tokens(model, packer, "top", "logp", rows=rows, batch_rows=batch_rows)
    values = (found["top"], packer.learned, found["logp"])
    sums = np.stack([packer.sums(of_tokens) for of_tokens in values])
    # Pieces of a text follow each other, and a record has one origin.
    origins = [d.origin or str(i) for i, d in enumerate(documents)]
    starts = [i for i, o in enumerate(origins) if i == 0 or o != origins[i - 1]]
    right, tokens, logp = np.add.reduceat(sums, starts, axis=1)
    some = tokens > 0
    texts = tuple(origins[start] for start, there in zip(starts, some) if there)
    return TextScores(right[some], tokens[some], logp[some], texts)
