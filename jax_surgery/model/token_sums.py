# SPDX-License-Identifier: Apache-2.0
"""Sums over tokens of terms of the output's logits, with their gradients.

The gradient of a term is formed in the chunk that makes its logits, so that none are
made twice: a pass costs three products with the head (logits, and the gradients of the
hidden states and of the head), where a chunk under `jax.checkpoint` costs four. It is
kept until the backward pass, which only scales it. Tokens that no term weighs, half of
a batch's where answers alone are learned, are sorted behind the others and left out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jax_surgery.model import logprobs
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition
from jax_surgery.parallel.compiled import loops

# (heads [D, V], hidden [C, D], other arrays [C, ...]) -> sums over the chunk, by name.
Terms = Callable[..., dict[str, jax.Array]]
LOSS = "loss"


def token_sums(
    terms: Terms,
    heads_SDV: Sequence[jax.Array],
    hidden_BTD: jax.Array,
    others: Sequence[jax.Array],
    active_BT: jax.Array,
    *,
    tied: bool = False,
    chunk: int | None = None,
) -> dict[str, jax.Array]:
    """Sums over the active tokens, float32 scalars.

    Args:
      terms: gives a chunk's sums. Chunks are filled up with tokens that are not active
        and with zeros, so it must weigh each token by one of `others` that is 0 there.
        The gradient is that of `LOSS`, through the first head and the hidden states;
        other sums, heads and arrays have none.
      heads_SDV: output heads, a copy for each device (`llama.head_copies`).
      hidden_BTD: final hidden states.
      others: more arrays of the tokens, [B, T, ...].
      active_BT: bool; where False nothing is computed.
      tied: whether heads are transposed embeddings; they then lie in memory as those
        do, and so does the gradient, which saves transposing them.
      chunk: tokens a chunk; None chooses from shapes.
    """
    platform = meshes.platform()
    words = sum(head.shape[2] for head in heads_SDV) // meshes.axis_size("tp")

    def of_device(heads_1XY, hidden_BTD, others, active_BT):
        count = active_BT.size
        size = chunk or logprobs.choose_chunk(1, count, words, platform)
        order = jnp.argsort(~active_BT.ravel(), stable=True)
        fill = -count % size

        def sorted_first(array_BT):
            flat = array_BT.reshape(count, *array_BT.shape[2:])[order]
            return jnp.pad(flat, [(0, fill)] + [(0, 0)] * (flat.ndim - 1))

        def of_stored(heads_XY, *arrays):
            return terms([h.T for h in heads_XY] if tied else heads_XY, *arrays)

        arrays = list(map(sorted_first, others))
        heads = [head[0] for head in heads_1XY]
        chunks = (jnp.count_nonzero(active_BT) + size - 1) // size
        sums = _sums(of_stored, size, heads, sorted_first(hidden_BTD), arrays, chunks)
        return jax.tree.map(lambda total: total[None], sums)

    stored = [head.swapaxes(1, 2) if tied else head for head in heads_SDV]
    sums = partition.over_rows(of_device)(stored, hidden_BTD, list(others), active_BT)
    return jax.tree.map(jnp.sum, sums)


def _part(size, i, arrays):
    return [jax.lax.dynamic_slice_in_dim(a, i * size, size) for a in arrays]


def _zero_sums(terms, size, heads, arrays):
    parts = [jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in arrays]
    return {name: jnp.zeros(()) for name in jax.eval_shape(terms, heads, *parts)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(terms, size, heads, hidden, others, chunks):
    """Sums over the first `chunks` chunks of `size` tokens; see `token_sums`."""
    arrays = [hidden, *others]

    def add(i, sums):
        return jax.tree.map(jnp.add, sums, terms(heads, *_part(size, i, arrays)))

    zeros = _zero_sums(terms, size, heads, arrays)
    with loops.at_most(hidden.shape[0] // size):
        return jax.lax.fori_loop(0, chunks, add, zeros)


def _sums_forward(terms, size, heads, hidden, others, chunks):
    head_moves = heads[0].perturbed
    heads, hidden, others, chunks = jax.tree.map(
        lambda x: x.value, (heads, hidden, others, chunks)
    )

    def add(i, carry):
        sums, d_hidden, d_head = carry
        hidden_CD, *others_C = _part(size, i, [hidden, *others])

        def loss(hidden_CD, head):
            found = terms([head, *heads[1:]], hidden_CD, *others_C)
            return found[LOSS], found

        moving = (0, 1) if head_moves else (0,)
        grads, found = jax.grad(loss, moving, has_aux=True)(hidden_CD, heads[0])
        d_hidden = jax.lax.dynamic_update_slice_in_dim(d_hidden, grads[0], i * size, 0)
        if head_moves:
            d_head += grads[1].astype(jnp.float32)
        return jax.tree.map(jnp.add, sums, found), d_hidden, d_head

    start = (
        _zero_sums(terms, size, heads, [hidden, *others]),
        jnp.zeros_like(hidden),
        jnp.zeros(heads[0].shape) if head_moves else jnp.zeros(()),
    )
    with loops.at_most(hidden.shape[0] // size):
        sums, d_hidden, d_head = jax.lax.fori_loop(0, chunks, add, start)
    # Rounded here, not where it is used: in bfloat16 half as much is kept until then.
    d_head = d_head.astype(heads[0].dtype) if head_moves else None
    return sums, (d_hidden, d_head, len(heads))


def _sums_backward(terms, size, kept, cotangents: dict[str, Any]):
    del terms, size
    d_hidden, d_head, heads = kept
    scale = cotangents[LOSS]
    if isinstance(scale, SymbolicZero):
        scale = jnp.zeros(())
    if d_head is not None:
        d_head = (scale * d_head).astype(d_head.dtype)
    of_heads = [d_head] + [None] * (heads - 1)
    return of_heads, (scale * d_hidden).astype(d_hidden.dtype), None, None


_sums.defvjp(_sums_forward, _sums_backward, symbolic_zeros=True)
