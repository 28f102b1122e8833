# SPDX-License-Identifier: Apache-2.0
"""Terms of whole documents, or of pairs of them, from log-probabilities of tokens.

The term is any function of each document's sum of log p. It is computed in two passes
over the unlearn rows' tokens: the first gives the sums, without a gradient; the term's
derivative by each token's log p then weighs that token in `token_sums`, whose chunks
give the exact gradient without holding logits. That costs four products with the head
where a term of tokens costs three, as many as chunks under `jax.checkpoint` would.
"""

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import Method, PairMethod, SequenceMethod, Sequences
from jax_surgery.models import logprobs
from jax_surgery.models.documents import document_sums, shifted
from jax_surgery.models.output_head import Head


def is_forget(segment_ids_BT: jax.Array) -> jax.Array:
    """Which positions of paired documents are of a text to forget: odd segments."""
    return segment_ids_BT % 2 == 1


def _pair_ids(segment_ids_BT: jax.Array) -> jax.Array:
    """Pairs of a row numbered 1, 2, ...; padding 0."""
    return (segment_ids_BT + 1) // 2


def _firsts(method: Method, batch: Batch) -> jax.Array:
    """One position of each document (pair) that has something to learn, float32."""
    first_UT = (batch.positions_BT == 0) & (batch.segment_ids_BT > 0)
    learned_UT = (shifted(batch.weights_BT) != 0).astype(jnp.float32)
    if isinstance(method, PairMethod):
        first_UT &= is_forget(batch.segment_ids_BT)
    first_UT &= document_sums(learned_UT, batch.segment_ids_BT) > 0
    return first_UT.astype(jnp.float32)


def count(method: Method, batch: Batch) -> jax.Array:
    """How many documents (pairs) the rows of a batch hold, float32."""
    return _firsts(method, batch).sum()


def _sequences(batch: Batch, ids_UT, logp_UT, reference_UT, held_UT) -> Sequences:
    """Sums over the learned tokens of each document where `held_UT` is true."""
    learned_UT = ((shifted(batch.weights_BT) != 0) & held_UT).astype(jnp.float32)

    def total(values_UT):
        return document_sums(learned_UT * values_UT, ids_UT)

    tokens_UT = jnp.maximum(total(1.0), 1.0)
    return Sequences(total(logp_UT), total(reference_UT), tokens_UT)


def term(
    method: SequenceMethod | PairMethod,
    logp_UT: jax.Array,
    reference_UT: jax.Array,
    batch: Batch,
    documents: jax.Array,
) -> jax.Array:
    """The method's term, a scalar: the mean over the global batch's documents.

    Args:
      logp_UT: log p of the token that each position predicts, nats.
      reference_UT: the frozen model's.
      batch: the unlearn rows.
      documents: of the global batch, or pairs.
    """
    ids_UT = batch.segment_ids_BT
    if isinstance(method, PairMethod):
        pairs_UT, forget_UT = _pair_ids(ids_UT), is_forget(ids_UT)
        found = [
            _sequences(batch, pairs_UT, logp_UT, reference_UT, held_UT)
            for held_UT in (forget_UT, ~forget_UT)
        ]
    else:
        held_UT = jnp.ones_like(ids_UT, bool)
        found = [_sequences(batch, ids_UT, logp_UT, reference_UT, held_UT)]
    return (_firsts(method, batch) * method.unlearn(*found)).sum() / documents


def slopes(
    method: SequenceMethod | PairMethod,
    hidden_UTD: jax.Array,
    head_SDV: Head,
    batch: Batch,
    reference_logp_UT: jax.Array | None,
    documents: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The term, and its derivative by the log p that each position gives, [U, T].

    Args:
      hidden_UTD: final hidden states of the unlearn rows; neither they nor the head get
        a gradient from here.
      head_SDV: the model's output head.
      batch: the unlearn rows.
      reference_logp_UT: of each token as it is predicted; None without a reference.
      documents: see `term`.
    """
    targets_UT = shifted(batch.tokens_BT)
    logp_UT = logprobs.token_logprobs(hidden_UTD, head_SDV, targets_UT).logp_BT
    reference_UT = jnp.zeros_like(logp_UT)
    if reference_logp_UT is not None:
        reference_UT = shifted(reference_logp_UT)
    return jax.value_and_grad(term, argnums=1)(
        method, logp_UT, reference_UT, batch, documents
    )
