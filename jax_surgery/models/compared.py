# SPDX-License-Identifier: Apache-2.0
"""Tokens beside others that a model could say in their place, from final hidden states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.models import logprobs
from jax_surgery.models.output_head import Head


class Compared(NamedTuple):
    """A token beside some others, float32 [C], nats.

    Attributes:
      gap_C: log p of the token less the level at which others as likely as it stand.
      spread_C: standard deviation of another token as likely about that level, by what
        the others vary about theirs; it has no gradient.
    """

    gap_C: jax.Array
    spread_C: jax.Array


def of_chunk(
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
    logits_CV = logprobs.logits(hidden_CD, head_DV)
    token_C1 = jnp.take_along_axis(logits_CV, targets_C[..., None], axis=-1)
    others_CK = jnp.take_along_axis(logits_CV, others_CK, axis=-1)
    mean_C1 = others_CK.mean(-1, keepdims=True)
    still_CK = jax.lax.stop_gradient(others_CK)
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
