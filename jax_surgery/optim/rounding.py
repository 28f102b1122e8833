# SPDX-License-Identifier: Apache-2.0
"""Rounding to 16 bits that loses no small change on average; accumulators in bfloat16.

A running mean with decay 0.999 moves by a thousandth of itself a step. bfloat16 holds
8 bits, so half its spacing is 0.2 to 0.4 % and rounding to the nearest value throws
every such change away: the mean never changes. Here a value is rounded up as often
as it lies near the upper neighbour (stochastic rounding), so that its expectation is
exact and many small changes add up. The random bits are a function of the step, the
array and the element: a resumed run, or one on other devices, draws the same bits.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax


def round_stochastically(
    x: jax.Array, key: jax.Array, dtype: Any = jnp.bfloat16
) -> jax.Array:
    """bfloat16 or float16 of float32, each value one of its two neighbours, correct on
    average.

    What the dtype holds exactly stays; infinities and NaNs are unchanged.
    """
    noise = jax.random.bits(key, x.shape, jnp.uint16)
    if dtype == jnp.float16:
        return _to_float16(x, noise)
    # The upper half of a float32's bits is a bfloat16. A random number in the lower
    # half carries into the upper as often as the lower half is large.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    rounded = (bits + noise.astype(jnp.uint32)) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(rounded, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _to_float16(x: jax.Array, noise: jax.Array) -> jax.Array:
    """float16, by distances: below 6e-5 its numbers are equally far apart."""
    near = x.astype(jnp.float16)
    wide = near.astype(jnp.float32)
    # Its bits count its numbers, from 0 on to both sides.
    bits = jax.lax.bitcast_convert_type(near, jnp.int16)
    outwards = jnp.where(jnp.abs(x) > jnp.abs(wide), 1, -1).astype(jnp.int16)
    # From 0 there is no way inwards, and its sign is that of x.
    other = jax.lax.bitcast_convert_type(bits + outwards, jnp.float16)
    gap = jnp.abs(other.astype(jnp.float32) - wide)
    moves = noise.astype(jnp.float32) < jnp.abs(x - wide) / gap * 2.0**16
    return jnp.where(moves & jnp.isfinite(wide) & (x != wide), other, near)


class StoredState(NamedTuple):
    """State of `stored`: steps taken, and the inner state in its stored dtypes."""

    count: jax.Array
    inner: Any


def stored(
    inner: optax.GradientTransformation, dtypes: Mapping[str, str]
) -> optax.GradientTransformation:
    """`inner`, between steps with some fields of its state in bfloat16.

    A step itself computes in float32, and uses what it computed before the rounding.

    Args:
      inner: an optimizer whose state is a NamedTuple with float32 accumulators.
      dtypes: "float32" or "bfloat16" by field of that state.

    Returns:
      `inner` itself where all are float32.
    """
    fields = tuple(sorted(name for name in dtypes if dtypes[name] == "bfloat16"))
    if not fields:
        return inner

    def replace(state, function):
        return state._replace(**{f: function(getattr(state, f)) for f in fields})

    def init(params):
        narrow = replace(inner.init(params), lambda t: optax.tree.cast(t, jnp.bfloat16))
        return StoredState(jnp.zeros((), jnp.int32), narrow)

    def update(updates, state, params=None):
        wide = replace(state.inner, lambda t: optax.tree.cast(t, jnp.float32))
        updates, found = inner.update(updates, wide, params)
        after = cast(Any, found)  # optax calls every state a tree; this is a tuple
        # A fixed implementation, so that bits do not depend on JAX's configuration.
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), state.count)
        leaves, tree = jax.tree.flatten([getattr(after, f) for f in fields])
        keys = jax.random.split(key, len(leaves))
        leaves = [
            round_stochastically(*pair) for pair in zip(leaves, keys, strict=True)
        ]
        rounded = dict(zip(fields, jax.tree.unflatten(tree, leaves), strict=True))
        return updates, StoredState(state.count + 1, after._replace(**rounded))

    return optax.GradientTransformation(init, update)
