# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and KL from final hidden states, in chunks of tokens.

The logits of all tokens never exist at once: chunks of the tokens of a device's rows
are computed one after another, each under `jax.checkpoint`, float32 inside. The result
is one number per token. `of_targets` and `divergence` compute one chunk; `token_sums`
sums them over tokens, with gradients.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jax_surgery.models.attention import softcapped
from jax_surgery.models.output_head import Head
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition

# Logits that a device holds at a time, in values. Small ones stay near a CPU's caches
# (2^22 float32 are 16 MiB); on TPU and GPU a chunk also pays for reading the head and
# adding to its gradient (2^25 are 128 MiB). GPUs are faster for the memory they have.
CHUNK_VALUES = {"cpu": 1 << 22, "gpu": 1 << 29, "tpu": 1 << 25}


class TokenLogprobs(NamedTuple):
    """Values of each target token, float32 [B, T].

    Attributes:
      logp_BT: log p(target), nats.
      margin_BT: log-odds z_y - logsumexp_{j != y} z_j, nats.
      top_BT: whether the target is the most likely token, and no other is as likely.
      rival_logp_BT: log p of the likeliest other token, nats.
    """

    logp_BT: jax.Array
    margin_BT: jax.Array
    top_BT: jax.Array
    rival_logp_BT: jax.Array


class TokenStatistics(NamedTuple):
    """Values of each target token that is asked for, float32 [B, T]; 0 of the others.

    Attributes:
      logp_BT: log p(target), nats.
      top_BT: whether the target is the most likely token, and no other is as likely.
      mean_BT: mean of log p(v) over tokens v that are drawn by p, nats.
      variance_BT: its variance, nats squared.
    """

    logp_BT: jax.Array
    top_BT: jax.Array
    mean_BT: jax.Array
    variance_BT: jax.Array


def choose_chunk(tokens: int, vocab_size: int, platform: str = "cpu") -> int:
    """Tokens in a chunk: what `CHUNK_VALUES` allows, at least 8.

    Args:
      tokens: of all rows on one device.
      vocab_size: logits per token on one device.
      platform: "cpu", "gpu" or "tpu".
    """
    limit = max(8, CHUNK_VALUES[platform] // vocab_size)
    # Equal chunks: a short last one would be computed in full.
    return -(-tokens // -(-tokens // limit))


def _map_chunks(body, head_SDV: Head, arrays, chunk):
    """Maps `body` over chunks of the tokens of each device's rows.

    Args:
      body: (head [D, V], chunks [C, ...]) -> values [C, ...].
      head_SDV: output head, a copy for each device; [D, V] where there is one device.
      arrays: [B, T, ...], hidden states first.
      chunk: tokens; None chooses from shapes.
    """
    if head_SDV.kernel.ndim == 2:
        head_SDV = head_SDV.with_kernel(lambda kernel: kernel[None])
    platform = meshes.platform()
    words = head_SDV.kernel.shape[2] // meshes.axis_size("tp")

    def of_device(head_1DV, *arrays):
        rows, tokens = arrays[0].shape[:2]
        count = rows * tokens
        size = chunk or choose_chunk(count, words, platform)

        def split(array_BT):
            flat = array_BT.reshape(count, *array_BT.shape[2:])
            padded = jnp.pad(flat, [(0, -count % size)] + [(0, 0)] * (flat.ndim - 1))
            return padded.reshape(-1, size, *flat.shape[1:])

        def joined(values):
            flat = values.reshape(-1, *values.shape[2:])
            return flat[:count].reshape(rows, tokens, *flat.shape[1:])

        head_DV = head_1DV.with_kernel(lambda kernel: kernel[0])
        step = jax.checkpoint(lambda part: body(head_DV, *part), prevent_cse=False)
        return jax.tree.map(joined, jax.lax.map(step, list(map(split, arrays))))

    return partition.over_rows(of_device)(head_SDV, *arrays)


def logits(hidden_CD: jax.Array, head_DV: Head, temperature: float = 1.0) -> jax.Array:
    """Logits of a chunk of tokens, float32.

    The product's gradient is rounded to the dtype of the hidden states before it is
    multiplied. A TPU's default product does that itself; a GPU would multiply in
    float32, at half of the speed or less, and hold the head in float32.

    Args:
      temperature: the model's logits, capped where it caps them, are divided by it.
    """
    product = _product(hidden_CD, head_DV.kernel.astype(hidden_CD.dtype))
    capped = softcapped(product, head_DV.softcap)
    return capped if temperature == 1.0 else capped / temperature


@jax.custom_vjp
def _product(hidden_CD, head_DV):
    return jnp.dot(hidden_CD, head_DV, preferred_element_type=jnp.float32)


def _product_forward(hidden, head_DV):
    """The product, and what the gradients that are asked for need."""
    kept = hidden.value if head_DV.perturbed else None
    kept_DV = head_DV.value if hidden.perturbed else None
    return _product(hidden.value, head_DV.value), (kept, kept_DV)


def _product_backward(residuals, cotangent):
    hidden, head_DV = residuals
    d_hidden = d_head_DV = None
    if isinstance(cotangent, SymbolicZero):
        return d_hidden, d_head_DV
    if head_DV is not None:
        d_hidden = cotangent.astype(head_DV.dtype) @ head_DV.T
    if hidden is not None:
        others = list(range(hidden.ndim - 1))
        rounded = cotangent.astype(hidden.dtype)
        d_head_DV = jnp.tensordot(hidden, rounded, (others, others))
    return d_hidden, d_head_DV


_product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


def token_logprobs(
    hidden_BTD: jax.Array,
    head_SDV: Head,
    targets_BT: jax.Array,
    *,
    chunk: int | None = None,
) -> TokenLogprobs:
    """Log-probability and margin of each target token.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      targets_BT: the token that each position is asked about.
      chunk: tokens in a chunk; None chooses from shapes.
    """

    return _map_chunks(of_targets, head_SDV, (hidden_BTD, targets_BT), chunk)


def token_statistics(
    hidden_BTD: jax.Array,
    head_SDV: Head,
    targets_BT: jax.Array,
    active_BT: jax.Array,
) -> TokenStatistics:
    """What scores of whole texts need of each target token, from one set of logits.

    Tokens that are not active are sorted behind the others of their device, and chunks of
    them alone are left out. There is no gradient.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      targets_BT: the token that each position is asked about.
      active_BT: bool; positions that are asked.
    """
    platform = meshes.platform()
    words = head_SDV.kernel.shape[2] // meshes.axis_size("tp")

    def of_device(head_1DV, hidden_BTD, targets_BT, active_BT):
        head_DV = head_1DV.with_kernel(lambda kernel: kernel[0])
        count, shape = active_BT.size, active_BT.shape
        size = choose_chunk(count, words, platform)
        order = jnp.argsort(~active_BT.ravel(), stable=True)
        # Whole chunks; what is added repeats a token, whose values are cut off again.
        order = jnp.pad(order, (0, -count % size), mode="edge")
        flat = hidden_BTD.reshape(count, -1), targets_BT.ravel()

        def add(i, found):
            own = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            values = _statistics(head_DV, *(array[own] for array in flat))
            return jax.tree.map(
                lambda all_N, own_C: jax.lax.dynamic_update_slice_in_dim(
                    all_N, own_C.astype(jnp.float32), i * size, 0
                ),
                found,
                values,
            )

        chunks = (jnp.count_nonzero(active_BT) + size - 1) // size
        start = TokenStatistics(*[jnp.zeros(len(order))] * 4)
        found = jax.lax.fori_loop(0, chunks, add, start)

        def placed(values):
            back = jnp.zeros(count).at[order[:count]].set(values[:count])
            return jnp.where(active_BT, back.reshape(shape), 0.0)

        return jax.tree.map(placed, found)

    return partition.over_rows(of_device)(head_SDV, hidden_BTD, targets_BT, active_BT)


def _statistics(head_DV: Head, hidden_CD, targets_C) -> TokenStatistics:
    """`token_statistics` of one chunk."""
    logits_CV = logits(hidden_CD, head_DV)
    logp_CV = logits_CV - jax.nn.logsumexp(logits_CV, axis=-1, keepdims=True)
    is_target = jnp.arange(logp_CV.shape[-1]) == targets_C[:, None]
    logp_C = jnp.where(is_target, logp_CV, 0.0).sum(-1)
    rival_C = jnp.where(is_target, -jnp.inf, logp_CV).max(-1)
    p_CV = jnp.exp(logp_CV)
    # A token of probability 0 adds nothing, whatever its logarithm is.
    mean_C = jnp.where(p_CV > 0, p_CV * logp_CV, 0.0).sum(-1)
    apart_CV = p_CV * jnp.square(logp_CV - mean_C[:, None])
    variance_C = jnp.where(p_CV > 0, apart_CV, 0.0).sum(-1)
    return TokenStatistics(logp_C, logp_C > rival_C, mean_C, variance_C)


def of_targets(
    head_DV: Head, hidden_CD, targets_C, temperature: float = 1.0
) -> TokenLogprobs:
    """`token_logprobs` of one chunk [..., C], all of its logits at once.

    Args:
      temperature: see `logits`.
    """
    return of_logits(logits(hidden_CD, head_DV, temperature), targets_C)


def of_logits(logits_CV: jax.Array, targets_C: jax.Array) -> TokenLogprobs:
    """`token_logprobs` of logits that are there, [..., C, V]."""
    is_target = jnp.arange(logits_CV.shape[-1]) == targets_C[..., None]
    at_target = jnp.where(is_target, logits_CV, 0.0).sum(-1)
    others_CV = jnp.where(is_target, -jnp.inf, logits_CV)
    rest = jax.nn.logsumexp(others_CV, axis=-1)
    total = jnp.logaddexp(rest, at_target)
    rival = others_CV.max(-1)
    top = at_target > rival  # a tie is no knowledge: of uniform logits nothing is
    return TokenLogprobs(at_target - total, at_target - rest, top, rival - total)


def candidate_logprobs(
    hidden_BTD: jax.Array,
    head_SDV: Head,
    candidates_BTK: jax.Array,
    *,
    chunk: int | None = None,
) -> jax.Array:
    """log p of K candidate next tokens at every position, [B, T, K] float32, nats.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      candidates_BTK: token ids.
      chunk: tokens in a chunk; None chooses from shapes.
    """

    def body(head_DV, hidden_CD, candidates_CK):
        return _at_candidates(logits(hidden_CD, head_DV), candidates_CK)

    return _map_chunks(body, head_SDV, (hidden_BTD, candidates_BTK), chunk)


def _at_candidates(logits_CV: jax.Array, candidates_CK: jax.Array) -> jax.Array:
    total_C1 = jax.nn.logsumexp(logits_CV, axis=-1, keepdims=True)
    return jnp.take_along_axis(logits_CV, candidates_CK, axis=-1) - total_C1


def likeliest_tokens(
    hidden_BTD: jax.Array,
    head_SDV: Head,
    candidates_BTK: jax.Array,
    *,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The most likely next token at every position, int32 [B, T], and log p of K
    candidates, as `candidate_logprobs` gives them.

    Args:
      hidden_BTD: final hidden states.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      candidates_BTK: token ids.
      chunk: tokens in a chunk; None chooses from shapes.
    """

    def body(head_DV, hidden_CD, candidates_CK):
        logits_CV = logits(hidden_CD, head_DV)
        likeliest_C = jnp.argmax(logits_CV, axis=-1).astype(jnp.int32)
        return likeliest_C, _at_candidates(logits_CV, candidates_CK)

    return _map_chunks(body, head_SDV, (hidden_BTD, candidates_BTK), chunk)


def divergence(
    heads: Sequence[Head],
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
    model = jax.nn.log_softmax(logits(hidden_CD, heads[0]))
    reference = jax.nn.log_softmax(logits(reference_CD, heads[1]))
    if direction == "model_to_reference":
        return (jnp.exp(model) * (model - reference)).sum(-1)
    return (jnp.exp(reference) * (reference - model)).sum(-1)
