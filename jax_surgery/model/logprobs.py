# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and KL from final hidden states, in chunks of tokens.

The logits of all tokens never exist at once: chunks of tokens are scanned, each
under `jax.checkpoint`, float32 inside. What leaves is one number a token.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

# Logits held at a time, in values: 2^22 float32 are 16 MiB.
CHUNK_VALUES = 1 << 22


class TokenLogprobs(NamedTuple):
    """Of each target token, float32 [B, T].

    Attributes:
      logp_BT: log p(target), nats.
      margin_BT: log-odds z_y - logsumexp_{j != y} z_j, nats.
      top_BT: whether the target is the most likely token.
    """

    logp_BT: jax.Array
    margin_BT: jax.Array
    top_BT: jax.Array


def choose_chunk(tokens: int, vocab_size: int) -> int:
    """Tokens a chunk: as many as `CHUNK_VALUES` logits allow, at least 8."""
    return min(tokens, max(8, CHUNK_VALUES // vocab_size))


def _scan_chunks(body, arrays, chunk):
    """Maps `body` over chunks of the arrays' first axis (padded at the end)."""
    tokens = arrays[0].shape[0]
    count = -(-tokens // chunk)
    padded = [
        jnp.pad(a, [(0, count * chunk - tokens)] + [(0, 0)] * (a.ndim - 1))
        for a in arrays
    ]
    parts = [a.reshape(count, chunk, *a.shape[1:]) for a in padded]
    step = jax.checkpoint(lambda _, part: (None, body(*part)))
    if count == 1:
        outs = step(None, [p[0] for p in parts])[1]
        return jax.tree.map(lambda o: o[:tokens], outs)
    outs = jax.lax.scan(step, None, parts)[1]
    return jax.tree.map(lambda o: o.reshape(-1, *o.shape[2:])[:tokens], outs)


def _logits(hidden_CD, head_DV):
    return jnp.dot(
        hidden_CD,
        head_DV.astype(hidden_CD.dtype),
        preferred_element_type=jnp.float32,
    )


def token_logprobs(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    chunk: int | None = None,
) -> TokenLogprobs:
    """Log-probability and margin of each target token.

    Args:
      hidden_BTD: final hidden states.
      head_DV: output head.
      targets_BT: the token that each position is asked about.
      chunk: tokens a chunk; None chooses from shapes.
    """
    rows, tokens, width = hidden_BTD.shape
    chunk = chunk or choose_chunk(rows * tokens, head_DV.shape[1])

    def body(hidden_CD, targets_C):
        logits_CV = _logits(hidden_CD, head_DV)
        is_target = jnp.arange(logits_CV.shape[1]) == targets_C[:, None]
        at_target = jnp.where(is_target, logits_CV, 0.0).sum(-1)
        others_CV = jnp.where(is_target, -jnp.inf, logits_CV)
        rest = jax.nn.logsumexp(others_CV, axis=-1)
        total = jnp.logaddexp(rest, at_target)
        top = at_target >= others_CV.max(-1)
        return TokenLogprobs(at_target - total, at_target - rest, top)

    flat = _scan_chunks(
        body, (hidden_BTD.reshape(-1, width), targets_BT.reshape(-1)), chunk
    )
    return jax.tree.map(lambda x: x.reshape(rows, tokens), flat)


def candidate_logprobs(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    candidates_BTK: jax.Array,
    *,
    chunk: int | None = None,
) -> jax.Array:
    """log p of K candidate next tokens at every position, [B, T, K] float32, nats.

    Args:
      hidden_BTD: final hidden states.
      head_DV: output head.
      candidates_BTK: token ids.
      chunk: tokens a chunk; None chooses from shapes.
    """
    rows, tokens, width = hidden_BTD.shape
    chunk = chunk or choose_chunk(rows * tokens, head_DV.shape[1])

    def body(hidden_CD, candidates_CK):
        logits_CV = _logits(hidden_CD, head_DV)
        total_C1 = jax.nn.logsumexp(logits_CV, axis=-1, keepdims=True)
        return jnp.take_along_axis(logits_CV, candidates_CK, axis=-1) - total_C1

    count = candidates_BTK.shape[-1]
    flat = (hidden_BTD.reshape(-1, width), candidates_BTK.reshape(-1, count))
    return _scan_chunks(body, flat, chunk).reshape(rows, tokens, count)


def kl_divergence(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    reference_hidden_BTD: jax.Array,
    reference_head_DV: jax.Array,
    *,
    direction: Literal["model_to_reference", "reference_to_model"],
    chunk: int | None = None,
) -> jax.Array:
    """KL over the whole vocabulary at every position, [B, T] float32, nats.

    Args:
      hidden_BTD, head_DV: of the model.
      reference_hidden_BTD, reference_head_DV: of the frozen one; no gradient.
      direction: "model_to_reference" is KL(p_model || p_reference), the paper's
        (arXiv 2409.13054, Eq. 1); "reference_to_model" the other way round.
      chunk: tokens a chunk; None chooses from shapes (two sets of logits).
    """
    rows, tokens, width = hidden_BTD.shape
    chunk = chunk or choose_chunk(rows * tokens, 2 * head_DV.shape[1])
    reference_hidden_BTD, reference_head_DV = jax.lax.stop_gradient(
        (reference_hidden_BTD, reference_head_DV)
    )

    def body(hidden_CD, reference_CD):
        model = jax.nn.log_softmax(_logits(hidden_CD, head_DV))
        reference = jax.nn.log_softmax(_logits(reference_CD, reference_head_DV))
        if direction == "model_to_reference":
            return (jnp.exp(model) * (model - reference)).sum(-1)
        return (jnp.exp(reference) * (reference - model)).sum(-1)

    flat = (hidden_BTD.reshape(-1, width), reference_hidden_BTD.reshape(-1, width))
    return _scan_chunks(body, flat, chunk).reshape(rows, tokens)
