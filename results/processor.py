# SPDX-License-Identifier: Apache-2.0
"""The processor that a table is measured on, and how fast it multiplies matrices.

Times of one machine say little about another: beside the rate of plain products of
the same run, they can be compared.

    python results/processor.py

prints the rate, in GFLOP per second.
"""

import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

CPUINFO = pathlib.Path("/proc/cpuinfo")
SIZE, PRODUCTS = 2048, 8  # of square float32 matrices; products that are timed


def name() -> str:
    """The processor's model, as the system gives it."""
    found = {}
    if CPUINFO.exists():
        lines = (line.partition(":") for line in CPUINFO.read_text().splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
    if "model name" not in found:
        return platform.processor() or platform.machine()
    # Virtual machines often give a short name, which these numbers complete.
    numbers = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
    return ", ".join([found["model name"], *numbers])


def product_rate() -> float:
    """GFLOP per second of the fastest float32 product, by JAX, on all cores."""
    import jax
    import jax.numpy as jnp

    matrix = jax.random.normal(jax.random.key(0), (SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds) / 1e9


def measured() -> float:
    """`product_rate` in a process of its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def sentence(rates: Sequence[float]) -> str:
    """What a table says of its machine.

    Args:
      rates: `measured` in each round.
    """
    return (
        f"Processor: {name()}, {os.cpu_count()} cores; plain float32 matrix products of "
        f"{SIZE:,} x {SIZE:,} by JAX ran at {statistics.median(rates):.0f} GFLOP/s "
        f"(the median of {len(rates)} between the rounds, {min(rates):.0f} to "
        f"{max(rates):.0f})."
    )


if __name__ == "__main__":
    print(product_rate())
