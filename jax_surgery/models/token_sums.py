# SPDX-License-Identifier: Apache-2.0
"""Sums over tokens of terms of the output's logits, with their gradients.

The gradient of a term is formed in the chunk that makes its logits, so that no logits
are made twice: a pass costs three products with the head (logits, and the gradients of the
hidden states and of the head), where a chunk under `jax.checkpoint` costs four. It is
kept until the backward pass, which only scales it. Tokens that no term weighs, half of
a batch's where answers alone are learned, are sorted behind the others and left out.

What the `custom_vjp` below is worth: with a cross-entropy and a KL over 1,024 tokens,
width 1,024 and vocabulary 32,000 in float32, 3.1 s and 161 MiB against 6.0 s and 313 MiB
of chunks under `jax.checkpoint` (best of four alternating runs on two busy CPU cores;
`python results/token_sums.py`). The gradients differ by 2e-7 of the largest.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jax_surgery.models import logprobs
from jax_surgery.models.output_head import Head
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition, scopes

# (heads (their kernels [D, V]), hidden [C, D], other arrays [C, ...]) -> sums over the chunk, by name.
Terms = Callable[..., dict[str, jax.Array]]
LOSS = "loss"


class Part(NamedTuple):
    """Tokens, and the terms that are summed over them.

    Attributes:
      terms: returns a chunk's sums, `LOSS` among them. Chunks are filled up with tokens
        that are not active and with zeros, so it must weigh each token by one of
        `others` that is 0 there.
      hidden_BTD: final hidden states.
      others: more arrays of the tokens, [B, T, ...].
      active_BT: bool; where False nothing is computed.
      heads: output heads [S, D, V] that the terms take beside the model's.
    """

    terms: Terms
    hidden_BTD: jax.Array
    others: Sequence[jax.Array]
    active_BT: jax.Array
    heads: Sequence[Head] = ()


def token_sums(
    parts: Sequence[Part],
    head_SDV: Head,
    *,
    tied: bool = False,
    chunk: int | None = None,
) -> dict[str, jax.Array]:
    """Sums over the active tokens of all parts, float32 scalars by name.

    The gradient is that of `LOSS`, the sum of the parts', through the head and their
    hidden states; other sums, heads and arrays have none.

    Args:
      parts: their terms have different names, except `LOSS`.
      head_SDV: the model's output head, a copy for each device (`output_head.copies`).
      tied: whether heads are transposed embeddings; they then lie in memory as those
        do, and so does the gradient. Three transposes of 32,000 x 512 take 0.4 s of a
        step of 5 s in results/cpu_speed.md.
      chunk: tokens per chunk; None chooses from shapes.
    """
    platform = meshes.platform()
    words = head_SDV.kernel.shape[2] // meshes.axis_size("tp")

    def turned(head: Head) -> Head:
        """A tied head as it is stored, and back."""
        return head.with_kernel(lambda k: k.swapaxes(-1, -2)) if tied else head

    def of_one(head_1XY: Head) -> Head:
        return head_1XY.with_kernel(lambda kernel: kernel[0])

    def of_turned(terms):
        return lambda heads, *arrays: terms([turned(h) for h in heads], *arrays)

    def of_device(head_1XY, arrays):
        sizes, sorted_parts = [], []
        for heads_1XY, hidden_BTD, others, active_BT in arrays:
            count, several = active_BT.size, (1 + len(heads_1XY)) * words
            size = chunk or logprobs.choose_chunk(count, several, platform)
            hidden, *rest = _active_first([hidden_BTD, *others], active_BT, size)
            chunks = (jnp.count_nonzero(active_BT) + size - 1) // size
            sizes.append(size)
            sorted_parts.append((list(map(of_one, heads_1XY)), hidden, rest, chunks))
        sums = _sums(terms, tuple(sizes), of_one(head_1XY), sorted_parts)
        return jax.tree.map(lambda total: total[None], sums)

    terms = tuple(of_turned(part.terms) for part in parts)
    arrays = [
        (list(map(turned, p.heads)), p.hidden_BTD, list(p.others), p.active_BT)
        for p in parts
    ]
    sums = partition.over_rows(of_device)(turned(head_SDV), arrays)
    return jax.tree.map(jnp.sum, sums)


def _active_first(arrays, active_BT, size):
    """Arrays [B, T, ...] as [N, ...], active tokens first, N a multiple of `size`."""
    count = active_BT.size
    order = jnp.argsort(~active_BT.ravel(), stable=True)

    def of(array_BT):
        flat = array_BT.reshape(count, *array_BT.shape[2:])[order]
        return jnp.pad(flat, [(0, -count % size)] + [(0, 0)] * (flat.ndim - 1))

    return map(of, arrays)


def _sums_and_gradients(terms, sizes, head, parts, head_moves):
    """Sums over the first chunks of each part, and the gradients of their loss.

    Args:
      terms: of each part, of heads as they are stored.
      sizes: tokens of a chunk, of each part.
      head: the model's, as it is stored.
      parts: (other heads, hidden [N, D], other arrays [N, ...], how many chunks).
      head_moves: whether the head has a gradient.

    Returns:
      sums, and the gradients of each hidden and of the head (None where it has none).
    """
    # One sum for all parts: each device holds no other in float32.
    d_head = jnp.zeros(head.kernel.shape) if head_moves else jnp.zeros(())
    found, d_hiddens = [], []
    for term, size, (heads, hidden, others, chunks) in zip(
        terms, sizes, parts, strict=True
    ):

        def loss(hidden_CD, head, others_C, term=term, heads=heads):
            sums = term([head, *heads], hidden_CD, *others_C)
            return sums[LOSS], sums

        def add(i, carry, loss=loss, size=size, arrays=(hidden, *others)):
            sums, d_hidden, d_head = carry
            hidden_CD, *others_C = (
                jax.lax.dynamic_slice_in_dim(a, i * size, size) for a in arrays
            )
            moving = (0, 1) if head_moves else (0,)
            gradients, more = jax.grad(loss, moving, has_aux=True)(
                hidden_CD, head, others_C
            )
            d_hidden = jax.lax.dynamic_update_slice_in_dim(
                d_hidden, gradients[0], i * size, 0
            )
            if head_moves:
                d_head += gradients[1].kernel.astype(jnp.float32)
            return jax.tree.map(jnp.add, sums, more), d_hidden, d_head

        names = jax.eval_shape(loss, hidden[:size], head, [o[:size] for o in others])[1]
        zeros = {name: jnp.zeros(()) for name in names}
        start = (zeros, jnp.zeros_like(hidden), d_head)
        with scopes.at_most(hidden.shape[0] // size):
            sums, d_hidden, d_head = jax.lax.fori_loop(0, chunks, add, start)
        found.append(sums)
        d_hiddens.append(d_hidden)
    # Rounded here, not where it is used: in bfloat16 half as much is kept until then.
    own = d_head.astype(head.kernel.dtype)
    d_head = head.with_kernel(lambda _: own) if head_moves else None
    total = {name: value for sums in found for name, value in sums.items()}
    total[LOSS] = functools.reduce(jnp.add, [sums[LOSS] for sums in found])
    return total, (d_hiddens, d_head)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(terms, sizes, head, parts):
    # The compiler leaves gradients out that nothing reads.
    return _sums_and_gradients(terms, sizes, head, parts, False)[0]


def _sums_forward(terms, sizes, head, parts):
    head_moves = head.kernel.perturbed
    head, parts = jax.tree.map(lambda x: x.value, (head, parts))
    return _sums_and_gradients(terms, sizes, head, parts, head_moves)


def _sums_backward(terms, sizes, residuals, cotangents: dict[str, Any]):
    del terms, sizes
    d_hiddens, d_head = residuals
    scale = cotangents[LOSS]
    if isinstance(scale, SymbolicZero):
        scale = jnp.zeros(())
    scaled = jax.tree.map(lambda d: (scale * d).astype(d.dtype), (d_head, d_hiddens))
    return scaled[0], [(None, d_hidden, None, None) for d_hidden in scaled[1]]


_sums.defvjp(_sums_forward, _sums_backward, symbolic_zeros=True)
