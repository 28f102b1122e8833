# SPDX-License-Identifier: Apache-2.0
"""Checksums of arrays, which are computed where the arrays lie, and of plain values.

A damaged byte of a checkpoint is otherwise restored without a word: the compressed
numbers in it have no checksum of their own.
"""

import concurrent.futures
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.models.config import ModelConfig

PIECE = 2**26  # bytes of a file that are hashed at a time


def of_array(leaf: Any) -> tuple[int, int]:
    """Two sums of functions of an array's bits and places, mod 2^32.

    A change of one number changes both. Sums of integers do not depend on the order,
    hence on no mesh, and no host needs the whole of an array. Every process must call.
    """
    first, second = _sums(leaf)
    return int(first), int(second)


@jax.jit
def _sums(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums over all numbers of odd_place * mix(bits), and of mix'(bits ^ place)."""
    number = jnp.uint32
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    bits = bits.astype(number)
    place, stride = jnp.zeros(leaf.shape, number), 1
    for axis in reversed(range(leaf.ndim)):
        index = jax.lax.broadcasted_iota(number, leaf.shape, axis)
        place += index * number(stride % 2**32)
        stride *= leaf.shape[axis]
    place *= number(0x9E3779B1)
    first = (bits ^ (bits >> 16)) * (place | number(1))
    second = (bits ^ (place * number(0x85EBCA6B))) * number(0xC2B2AE35)
    second ^= second >> 15
    # Both in one reduction: on CPUs XLA makes a single sum of such terms 30 times slower.
    return jax.lax.reduce(
        (first, second),
        (number(0), number(0)),
        lambda x, y: (x[0] + y[0], x[1] + y[1]),
        tuple(range(leaf.ndim)),
    )


def of_tree(tree: Any) -> dict[str, str]:
    """A line of each array by its path: dtype, shape and `of_array`.

    Args:
      tree: of arrays.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # On accelerators all are dispatched before the first is waited for. On CPUs many sums
    # over several devices at once take each other's threads, and XLA ends the process.
    wait = jax.block_until_ready if jax.default_backend() == "cpu" else lambda x: x
    sums = [(path, leaf, wait(_sums(leaf))) for path, leaf in leaves]
    return {
        jax.tree_util.keystr(
            path
        ): f"{leaf.dtype} {leaf.shape} {int(a):08x}{int(b):08x}"
        for path, leaf, (a, b) in sorted(sums, key=lambda s: jax.tree_util.keystr(s[0]))
    }


def kinds_of_tree(tree: Any) -> dict[str, str]:
    """The first two words of each line of `of_tree`: dtype and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape}"
        for path, leaf in leaves
    }


def of_model(params: Any, config: ModelConfig) -> str:
    """SHA-256 (hex) of a model: `of_tree` of its parameters, and its architecture."""
    return of_value([of_tree(params), repr(config)])


def of_value(value: Any) -> str:
    """SHA-256 (hex) of a value that JSON can hold; the order of keys does not count."""
    return of_text(json.dumps(value, sort_keys=True))


def of_text(text: str) -> str:
    """SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_file(file: epath.Path) -> str:
    """SHA-256 (hex) of the SHA-256s of a file's pieces, which are read in threads."""

    def of_piece(start: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(start)
            return hashlib.sha256(opened.read(PIECE)).digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        pieces = pool.map(of_piece, range(0, file.stat().length, PIECE))
        return hashlib.sha256(b"".join(pieces)).hexdigest()
