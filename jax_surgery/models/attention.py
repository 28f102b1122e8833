# SPDX-License-Identifier: Apache-2.0
"""Causal attention within packed segments, and rotary positions."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import rope
from jax_surgery.models.config import ModelConfig, Scores
from jax_surgery.parallel import mesh as meshes

# Queries, keys and values -> the heads' contexts.
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
MASKED = -1e30  # a score that softmax makes 0
PLAIN = Scores()


def scale_of(scores: Scores, width: int) -> float:
    """What the products of queries and keys of a width are multiplied by."""
    return 1 / math.sqrt(width) if scores.scale is None else scores.scale


def by_rope(
    config: ModelConfig, positions_BT: jax.Array, lengths_BT: jax.Array | None = None
):
    """The rotation of layers, made once for each different one.

    Args:
      config, positions_BT, lengths_BT: see `rope_tables`.

    Returns:
      (tables_of, which_L): a layer's cos and sin are `tables_of(which)`, with its
      element of `which_L`, which is scanned with the layers; None where all have the
      same.
    """
    kinds = list(dict.fromkeys(config.layer_ropes))
    tables = [rope_tables(config, kind, positions_BT, lengths_BT) for kind in kinds]
    if len(kinds) == 1:
        return lambda which: tables[0], None
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *tables)
    take = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
    which_L = np.array([kinds.index(rope) for rope in config.layer_ropes], np.int32)
    return lambda which: jax.tree.map(
        lambda table: take(table, which), stacked
    ), which_L


def rope_tables(
    config: ModelConfig,
    kind: tuple[float, rope.Scaling | None],
    positions_BT: jax.Array,
    lengths_BT: jax.Array | None = None,
):
    """cos and signed sin of each token's angles, each [B, T, 1, head_dim] float32.

    Both halves of a head have the same angles; sin is negative in the first.

    Args:
      config: the model.
      kind: base and scaling of the frequencies (`ModelConfig.layer_ropes`).
      positions_BT: of each token in its document.
      lengths_BT: tokens of that document, which `rope.DynamicScaling` alone reads; None
        is a document of at most the model's positions.
    """
    (theta, scaling), width = kind, config.head_dim
    if isinstance(scaling, rope.DynamicScaling) and lengths_BT is not None:
        frequency = scaling.frequencies_BT(
            theta, width, config.max_positions, lengths_BT
        )
    elif scaling is None or isinstance(scaling, rope.DynamicScaling):
        frequency = rope.frequencies(theta, width)
    else:
        frequency = scaling.frequencies(theta, width)
    angle = positions_BT[..., None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
    if isinstance(scaling, rope.YarnScaling):
        cos, sin = cos * scaling.amplitude, sin * scaling.amplitude
    both = functools.partial(jnp.concatenate, axis=-1)
    return both([cos, cos]), both([-sin, sin])


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Applies RoPE in the half-split layout of Hugging Face's weights, float32 inside.

    The halves are exchanged and not split: half a head fills half of a TPU's lanes.
    There a product with a permutation exchanges them, which shifts nothing in memory.
    """
    x32_BTNH, width = x_BTNH.astype(jnp.float32), x_BTNH.shape[-1]
    if meshes.platform() == "tpu":
        exchange_HH = jnp.roll(jnp.eye(width, dtype=x_BTNH.dtype), width // 2, axis=1)
        exchanged = jnp.einsum(
            "BTNH,HG->BTNG",
            x_BTNH,
            exchange_HH,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
    else:
        exchanged = jnp.roll(x32_BTNH, width // 2, axis=-1)
    return (x32_BTNH * cos + exchanged * sin).astype(x_BTNH.dtype)


def effective_windows(config: ModelConfig, tokens: int) -> tuple[int, ...]:
    """The window of each layer, 0 where it hides nothing of rows of `tokens`."""
    return tuple(size if size < tokens else 0 for size in config.layer_windows)


def by_window(windows: tuple[int, ...], make: Callable[[int], Attend]):
    """The attention of layers, made once for each different window.

    Args:
      windows: of the layers.
      make: the attention of a window.

    Returns:
      (attend_of, which_L): a layer's attention is `attend_of(which)`, with its element
      of `which_L`, which is scanned with the layers; None where all have the same.
    """
    kinds = sorted(set(windows))
    attends = [make(window) for window in kinds]
    if len(kinds) == 1:
        return lambda which: attends[0], None
    which_L = np.array([kinds.index(window) for window in windows], np.int32)
    return lambda which: functools.partial(jax.lax.switch, which, attends), which_L


def segment_bias(
    segment_ids_BT: jax.Array, window: int = 0, begins_BT: jax.Array | None = None
) -> jax.Array:
    """Additive mask [B, 1, T, T]: 0 where a token may look, -1e30 elsewhere.

    A token sees its own segment up to itself, the last `window` tokens of that unless
    it is 0. Padding (segment 0) sees padding, so no row is fully masked.

    Args:
      begins_BT: see `Batch.begins_BT`: the segment that tokens see beside their own.
    """
    tokens = segment_ids_BT.shape[1]
    same = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    if begins_BT is not None:
        begun = begins_BT[:, :, None] == segment_ids_BT[:, None, :]
        same |= begun & (begins_BT > 0)[:, :, None]
    seen = jnp.tril(jnp.ones((tokens, tokens), bool))
    if window:
        seen &= ~jnp.tril(seen, -window)
    return jnp.where(same & seen, 0.0, MASKED)[:, None]


def softcapped(x: jax.Array, cap: float | None) -> jax.Array:
    """c tanh(x / c) of a cap c, which bounds x softly (Gemma 2, arXiv 2408.00118);
    without one x."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def attend(q_BTNH, k_BSKH, v_BSKH, bias, scores: Scores = PLAIN) -> jax.Array:
    """Softmax attention, float32 inside; N / K query heads share a key-value head.

    Args:
      scores: how the products of queries and keys are scaled and capped.
      bias: broadcastable to [B, N, T, S], added to the scaled scores.

    Returns:
      [B, T, N, H], the queries' dtype.
    """
    heads, width = q_BTNH.shape[2:]
    groups = heads // k_BSKH.shape[2]
    if groups > 1:
        k_BSKH = jnp.repeat(k_BSKH, groups, axis=2)
        v_BSKH = jnp.repeat(v_BSKH, groups, axis=2)
    # Heads before tokens: on CPU the products run twice as fast in this layout.
    q, k, v = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    products = jnp.einsum(
        "BNTH,BNSH->BNTS",
        q * jnp.asarray(scale_of(scores, width), q.dtype),
        k,
        preferred_element_type=jnp.float32,
    )
    capped = softcapped(products, scores.softcap)
    weights = jax.nn.softmax(capped + bias, axis=-1).astype(v.dtype)
    return jnp.einsum("BNTS,BNSH->BNTH", weights, v).swapaxes(1, 2)
