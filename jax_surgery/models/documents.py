# SPDX-License-Identifier: Apache-2.0
"""Values of positions and of whole documents in packed rows.

Documents lie one after another in a row. What is asked of a document is computed by
running sums and maxima along its row: sums by segment would be scatters, which send all
rows to all devices. Shapes: B rows, T tokens.
"""

import jax
import jax.numpy as jnp


def shifted(array_BT: jax.Array) -> jax.Array:
    """Entry t + 1 at position t, 0 at the end: what position t predicts.

    Args:
      array_BT: [B, T, ...].
    """
    return jnp.pad(array_BT[:, 1:], _along_tokens(array_BT, 0, 1))


def at_targets(array_BT: jax.Array) -> jax.Array:
    """The inverse of `shifted`: entry t - 1 at position t, 0 at the beginning."""
    return jnp.pad(array_BT[:, :-1], _along_tokens(array_BT, 1, 0))


def _along_tokens(array: jax.Array, before: int, after: int) -> list[tuple[int, int]]:
    return [(0, 0), (before, after), *[(0, 0)] * (array.ndim - 2)]


def _joined(left, right):
    """Running sums of two neighbouring spans, begun anew at the marked places."""
    (left_begins, left_sum), (right_begins, right_sum) = left, right
    total = jnp.where(right_begins, right_sum, left_sum + right_sum)
    return left_begins | right_begins, total


def _running_sums(
    values_BT: jax.Array, segment_ids_BT: jax.Array, reverse: bool
) -> jax.Array:
    edge_BT = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    around = (0, 1) if reverse else (1, 0)
    begins_BT = jnp.pad(edge_BT, ((0, 0), around), constant_values=True)
    of = (begins_BT, values_BT)
    return jax.lax.associative_scan(_joined, of, axis=1, reverse=reverse)[1]


def sums_so_far(values_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """The sum over each position's document up to it, with its own, [B, T]; arguments as
    `document_sums` has them."""
    return _running_sums(values_BT, segment_ids_BT, reverse=False)


def document_sums(values_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """The sum of each position's document, at every one of its positions, [B, T].

    The running sum from the document's beginning and the one from its end add up to it.

    Args:
      values_BT: float32; of each position.
      segment_ids_BT: documents of a row 1, 2, ..., padding 0.
    """
    before_BT = sums_so_far(values_BT, segment_ids_BT)
    after_BT = _running_sums(values_BT, segment_ids_BT, reverse=True)
    return before_BT + after_BT - values_BT


def position_weights(segment_ids_BT: jax.Array, average: str) -> jax.Array:
    """Weight of each position in the retain term, [B, T] float32, 0 on padding.

    Args:
      segment_ids_BT: packed documents 1, 2, ..., padding 0.
      average: "tokens" weighs every position alike, "sequences" every document
        (a document's positions weigh 1 / its length).
    """
    real_BT = (segment_ids_BT > 0).astype(jnp.float32)
    if average == "tokens":
        return real_BT
    return real_BT / document_sums(jnp.ones_like(real_BT), segment_ids_BT)
