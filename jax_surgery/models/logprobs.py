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


def of_targets(
    head_DV: Head, hidden_CD, targets_C, temperature: float = 1.0
) -> TokenLogprobs:
    """`token_logprobs` of one chunk [..., C], all of its logits at once.

    Args:
      temperature: see `logits`.
    """
    logits_CV = logits(hidden_CD, head_DV, temperature)
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
        logits_CV = logits(hidden_CD, head_DV)
        total_C1 = jax.nn.logsumexp(logits_CV, axis=-1, keepdims=True)
        return jnp.take_along_axis(logits_CV, candidates_CK, axis=-1) - total_C1

    return _map_chunks(body, head_SDV, (hidden_BTD, candidates_BTK), chunk)


class Compared(NamedTuple):
    """A token beside some others, float32 [C], nats.

    Attributes:
      gap_C: log p of the token less the level at which others as likely as it stand.
      spread_C: standard deviation of another token as likely about that level, by what
        the others vary about theirs; it has no gradient.
    """

    gap_C: jax.Array
    spread_C: jax.Array


def compared(
    head_DV: Head,
    hidden_CD: jax.Array,
    targets_C: jax.Array,
    others_CK: jax.Array,
    likelier_CK: jax.Array,
) -> Compared:
    """Each token of a chunk beside others of its position.

    The level of a token is the line  log p = a + b log q  through the others at log q of
    the token (least squares, b within 0 and 1 and without a gradient): where p still
    orders tokens as q does, b is 1, and where it does not, 0.

    Args:
      targets_C: the token that each position is asked about.
      others_CK: tokens.
      likelier_CK: log q of the others less log q of the token, nats.
    """
    logits_CV = logits(hidden_CD, head_DV)
    token_C1 = jnp.take_along_axis(logits_CV, targets_C[..., None], axis=-1)
    others_CK = jnp.take_along_axis(logits_CV, others_CK, axis=-1)
    mean_C1, still_CK = (
        others_CK.mean(-1, keepdims=True),
        jax.lax.stop_gradient(others_CK),
    )
    of_mean_CK = still_CK - still_CK.mean(-1, keepdims=True)
    likelier_C1 = likelier_CK.mean(-1, keepdims=True)
    x_CK = likelier_CK - likelier_C1
    slope_C1 = (x_CK * of_mean_CK).sum(-1, keepdims=True)
    slope_C1 /= jnp.maximum((x_CK**2).sum(-1, keepdims=True), 1e-6)
    slope_C1 = jnp.clip(slope_C1, 0.0, 1.0)
    # Of one more token, beside a line that was fitted to so many (prediction interval).
    count = others_CK.shape[-1]
    squares_C = ((of_mean_CK - slope_C1 * x_CK) ** 2).sum(-1)
    spread_C = jnp.sqrt(squares_C / max(count - 2, 1) * (1 + 1 / count))
    gap_C1 = token_C1 - (mean_C1 - slope_C1 * likelier_C1)
    return Compared(gap_C1[..., 0], spread_C)


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
