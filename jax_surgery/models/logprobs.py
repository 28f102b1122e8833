# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and KL from final hidden states, in chunks of tokens.

The logits of all tokens never exist at once: chunks of each row's tokens are scanned,
each under `jax.checkpoint`, float32 inside. The result is one number per token. Rows
stay whole, so that rows that are split over devices stay where they are. `of_targets`
and `divergence` compute one chunk; `token_sums` sums them over tokens, with gradients.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition

# Logits that a device holds at a time, in values. Small ones stay near a CPU's caches
# (2^22 float32 are 16 MiB); on TPU and GPU a chunk also pays for reading the head and
# adding to its gradient (2^25 are 128 MiB).
CHUNK_VALUES = {"cpu": 1 << 22, "gpu": 1 << 25, "tpu": 1 << 25}


class TokenLogprobs(NamedTuple):
    """Values of each target token, float32 [B, T].

    Attributes:
      logp_BT: log p(target), nats.
      margin_BT: log-odds z_y - logsumexp_{j != y} z_j, nats.
      top_BT: whether the target is the most likely token.
      rival_logp_BT: log p of the likeliest other token, nats.
    """

    logp_BT: jax.Array
    margin_BT: jax.Array
    top_BT: jax.Array
    rival_logp_BT: jax.Array


def choose_chunk(rows: int, tokens: int, vocab_size: int, platform: str = "cpu") -> int:
    """Tokens of each row in a chunk: what `CHUNK_VALUES` allows, at least 8 in all.

    Args:
      rows: rows on one device.
      tokens: tokens of a row.
      vocab_size: logits per token on one device.
      platform: "cpu", "gpu" or "tpu".
    """
    in_all = max(8, CHUNK_VALUES[platform] // vocab_size)
    limit = max(1, in_all // rows)
    # Equal chunks: a short last one would be computed in full.
    return -(-tokens // -(-tokens // limit))


def _scan_chunks(body, heads, arrays, chunk):
    """Maps `body` over chunks of the arrays' second axis, on each device's rows.

    Args:
      body: (heads [D, V], chunks [B, C, ...]) -> values [B, C, ...].
      heads: output heads [S, D, V], or [D, V] where there is one device.
      arrays: [B, T, ...], hidden states first.
      chunk: tokens of each row; None chooses from shapes.
    """
    heads = [head if head.ndim == 3 else head[None] for head in heads]
    platform = meshes.platform()
    words = sum(head.shape[2] for head in heads) // meshes.axis_size("tp")

    def of_device(heads_1DV, *arrays):
        heads = [head[0] for head in heads_1DV]
        rows, tokens = arrays[0].shape[:2]
        size = chunk or choose_chunk(rows, tokens, words, platform)
        count = -(-tokens // size)
        if count == 1:
            return jax.checkpoint(body)(heads, *arrays)
        fill = count * size - tokens
        parts = []
        for array in arrays:
            padded = jnp.pad(array, [(0, 0), (0, fill)] + [(0, 0)] * (array.ndim - 2))
            split = padded.reshape(rows, count, size, *array.shape[2:])
            parts.append(split.swapaxes(0, 1))
        step = jax.checkpoint(
            lambda _, part: (None, body(heads, *part)), prevent_cse=False
        )
        outs = jax.lax.scan(step, None, parts)[1]

        def joined(out):
            by_row = out.swapaxes(0, 1)
            return by_row.reshape(rows, -1, *by_row.shape[3:])[:, :tokens]

        return jax.tree.map(joined, outs)

    return partition.over_rows(of_device)(heads, *arrays)


def _logits(hidden_CD, head_DV):
    flat = hidden_CD.reshape(-1, hidden_CD.shape[-1])
    logits = jnp.dot(
        flat, head_DV.astype(flat.dtype), preferred_element_type=jnp.float32
    )
    return logits.reshape(*hidden_CD.shape[:-1], -1)


def token_logprobs(
    hidden_BTD: jax.Array,
    head_SDV: jax.Array,
    targets_BT: jax.Array,
    *,
    chunk: int | None = None,
) -> TokenLogprobs:
    """Log-probability and margin of each target token.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      targets_BT: the token that each position is asked about.
      chunk: tokens of each row in a chunk; None chooses from shapes.
    """

    def body(heads, hidden_BCD, targets_BC):
        (head_DV,) = heads
        return of_targets(head_DV, hidden_BCD, targets_BC)

    return _scan_chunks(body, [head_SDV], (hidden_BTD, targets_BT), chunk)


def of_targets(head_DV, hidden_CD, targets_C) -> TokenLogprobs:
    """`token_logprobs` of one chunk [..., C], all of its logits at once."""
    logits_CV = _logits(hidden_CD, head_DV)
    is_target = jnp.arange(logits_CV.shape[-1]) == targets_C[..., None]
    at_target = jnp.where(is_target, logits_CV, 0.0).sum(-1)
    others_CV = jnp.where(is_target, -jnp.inf, logits_CV)
    rest = jax.nn.logsumexp(others_CV, axis=-1)
    total = jnp.logaddexp(rest, at_target)
    rival = others_CV.max(-1)
    top = at_target >= rival
    return TokenLogprobs(at_target - total, at_target - rest, top, rival - total)


def candidate_logprobs(
    hidden_BTD: jax.Array,
    head_SDV: jax.Array,
    candidates_BTK: jax.Array,
    *,
    chunk: int | None = None,
) -> jax.Array:
    """log p of K candidate next tokens at every position, [B, T, K] float32, nats.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      candidates_BTK: token ids.
      chunk: tokens of each row in a chunk; None chooses from shapes.
    """

    def body(heads, hidden_BCD, candidates_BCK):
        logits_BCV = _logits(hidden_BCD, *heads)
        total_BC1 = jax.nn.logsumexp(logits_BCV, axis=-1, keepdims=True)
        return jnp.take_along_axis(logits_BCV, candidates_BCK, axis=-1) - total_BC1

    return _scan_chunks(body, [head_SDV], (hidden_BTD, candidates_BTK), chunk)


def divergence(
    heads: Sequence[jax.Array],
    hidden_CD: jax.Array,
    reference_CD: jax.Array,
    *,
    direction: Literal["model_to_reference", "reference_to_model"],
) -> jax.Array:
    """KL over the whole vocabulary at every position of a chunk, [..., C] float32, nats.

    Args:
      heads: the model's and the reference's, [D, V].
      hidden_CD, reference_CD: final hidden states, [..., C, D].
      direction: "model_to_reference" is KL(p_model || p_reference), the paper's
        (arXiv 2409.13054, Eq. 1); "reference_to_model" the other way round.
    """
    model = jax.nn.log_softmax(_logits(hidden_CD, heads[0]))
    reference = jax.nn.log_softmax(_logits(reference_CD, heads[1]))
    if direction == "model_to_reference":
        return (jnp.exp(model) * (model - reference)).sum(-1)
    return (jnp.exp(reference) * (reference - model)).sum(-1)
