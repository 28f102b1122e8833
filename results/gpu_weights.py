# SPDX-License-Identifier: Apache-2.0
"""Random weights that JAX and PyTorch make alike on a device, bit by bit.

Element i of a matrix is a hash of i and of the matrix' own seed. So a model of seven
billion parameters need not be moved from one program to the other.
"""

import math
import zlib
from typing import Any

import numpy as np

BITS = 2**32 - 1
ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B))  # shift, factor (Wellons' "lowbias32")


def seed(name: str, layer: int) -> int:
    """The seed of a matrix of a layer."""
    return zlib.crc32(f"{name} {layer}".encode())


def hashed(x: Any, seeds: Any, number: Any = int) -> Any:
    """Hashes of unsigned numbers below 2^32.

    Args:
      x: held in integers of 32 or of 64 bits.
      seeds: added first.
      number: the type of constants.
    """
    bits = number(BITS)
    x = (x * number(2654435761) + seeds) & bits
    for shift, factor in ROUNDS:
        x = ((x ^ (x >> shift)) * number(factor)) & bits
    return x ^ (x >> 16)


def bound(deviation: float) -> float:
    """The size of one of 2^24 steps, for values of this standard deviation."""
    return float(np.float32(deviation * math.sqrt(12) / 2**24))


def deviations(config: Any) -> dict[str, float]:
    """The standard deviation of each matrix, as in `decoder.init_params`."""
    std = config.initializer_range
    out = std / math.sqrt(2 * config.num_layers)
    return {name: out if name in ("o", "down") else std for name in MATRICES} | {
        "embedding": std,
        "head": std,
    }


MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def for_jax(name: str, layers: int, shape: tuple[int, ...], deviation: float, dtype):
    """Stacked matrices [layers, *shape], or one without layers (0), in JAX."""
    import jax
    import jax.numpy as jnp

    def make():
        size = math.prod(shape)
        index = jax.lax.iota(jnp.uint32, size)[None]
        each = [seed(name, layer) for layer in range(max(layers, 1))]
        seeds = jnp.asarray(np.asarray(each, np.uint32))[:, None]
        number = hashed(index, seeds, np.uint32) >> 8
        centred = number.astype(jnp.int32) - 2**23
        values = centred.astype(jnp.float32) * np.float32(bound(deviation))
        whole = values.astype(dtype).reshape(-1, *shape)
        return whole if layers else whole[0]

    return jax.jit(make)()


def for_torch(name: str, layer: int, shape: tuple[int, int], deviation: float, device):
    """One matrix [inputs, outputs] in float32, in PyTorch."""
    import torch

    index = torch.arange(math.prod(shape), device=device, dtype=torch.int64)
    number = hashed(index, seed(name, layer)) >> 8
    del index
    values = (number - 2**23).to(torch.float32) * bound(deviation)
    return values.reshape(shape)
