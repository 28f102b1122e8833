# SPDX-License-Identifier: Apache-2.0
"""The attention kernels of a GPU on packed rows: time and error, of the two models'
heads. A process of results/gpu_speed.py."""

import time
from typing import Any

import gpu_cases
import numpy as np

# Query heads, key-value heads and their width.
HEADS = {"1B's heads": (32, 8, 64), "7B's heads": (32, 32, 128)}
REPEATS = 10


def segments(rows: int, context: int) -> np.ndarray:
    """Packed rows of texts to retain, [rows, context]."""
    from jax_surgery.data.packing import Packer

    documents = gpu_cases.documents("retain", 1 + rows * context // 20, 1000, 1)
    return Packer(documents, context, "tokens").pack(0, rows).segment_ids_BT


def measure(kind: str, heads: tuple[int, int, int], segments_BT: np.ndarray) -> Any:
    """Milliseconds of a forward and a backward pass in bfloat16; and the error of
    their results in Frobenius norm, relative to float32 products."""
    import jax
    import jax.numpy as jnp

    from jax_surgery.models import attention_kernels

    queries, keys, width = heads
    rows, context = segments_BT.shape
    ids_BT = jnp.asarray(segments_BT)
    real = (ids_BT > 0)[..., None, None]
    arrays = [
        jax.random.normal(jax.random.key(i), (rows, context, n, width), jnp.bfloat16)
        for i, n in enumerate((queries, keys, keys, queries))
    ]

    def passes(kind, dtype):
        def weighed(q, k, v, slope):
            attend = attention_kernels.self_attention(kind, ids_BT, dtype)
            out = jnp.where(real, attend(q, k, v), 0)
            return (out * slope).astype(jnp.float32).sum(), out

        run = jax.jit(jax.grad(weighed, (0, 1, 2), has_aux=True))
        cast = [a.astype(dtype) for a in arrays]
        gradients, out = run(*cast)
        return run, cast, [out, *gradients]

    run, cast, found = passes(kind, "bfloat16")
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run(*cast))
        seconds.append(time.perf_counter() - began)
    few = slice(0, 2)  # rows that are compared
    arrays, ids_BT, real = [a[few] for a in arrays], ids_BT[few], real[few]
    with jax.default_matmul_precision("highest"):
        exact = passes("xla", "float32")[2]

    def error(a, b):
        a, b = (np.asarray(x, np.float64) for x in (a[few], b))
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    return 1e3 * float(np.median(seconds)), max(map(error, found, exact))


def product_rate(size: int) -> float:
    """FLOP/s of a plain product of square bfloat16 matrices by JAX."""
    import jax
    import jax.numpy as jnp

    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product, seconds = jax.jit(jnp.matmul), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready([product(matrix, matrix) for _ in range(5)])
        seconds.append((time.perf_counter() - began) / 5)
    return 2 * size**3 / float(np.median(seconds))


def serve(connection: Any, tokens: int, contexts: tuple[int, ...], kinds) -> None:
    """Sends the rate of plain products, [name, context, kind, milliseconds, error] of
    each kernel, and None."""
    connection.send(product_rate(512 if tokens < 1000 else 8192))
    for name, heads in HEADS.items():
        for context in contexts:
            rows = segments(tokens // context, context)
            for kind in kinds:
                try:
                    found = measure(kind, heads, rows)
                except Exception as error:  # noqa: BLE001 - said in the table
                    found = (float("nan"), repr(error)[:200])
                connection.send([name, context, kind, *found])
    connection.send(None)
