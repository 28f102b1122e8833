# SPDX-License-Identifier: Apache-2.0
"""Memory of the host, which on CPU is the device's."""

import ctypes
import functools
import os
import pathlib
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


_kept = False  # whether `keep_freed_memory` was done


def keep_freed_memory() -> bool:
    """Makes this process keep what it frees, for the next array.

    By default glibc gives every large array back to the system and asks for it anew,
    and the system fills each page with zeros when it is touched: in a training step on
    CPU a quarter of the time. Returns whether the allocator could be told (it is
    glibc's); elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    global _kept
    _kept = all(mallopt(*setting) for setting in settings)
    return _kept


def release_freed_memory() -> None:
    """Gives back what was freed and is kept, also between arrays that live on.

    For the moments after which memory is used otherwise: a model was loaded, a program
    compiled, a checkpoint written. What was freed there lies in pieces that the next
    large array does not fit into. Does nothing where nothing is kept.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)


def available() -> int:
    """Bytes that programs can have; where the system does not say it, all there are."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    [found] = (line for line in lines if line.startswith("MemAvailable:"))
    return int(found.split()[1]) * 1024


# Of XLA on CPU: programs ordered for the least memory.
_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def memory_first(platform: str) -> dict[str, str] | None:
    """The compiler's options for a program that takes much memory; None: none.

    XLA on CPU orders a program's operations so that they may run beside each other, and
    holds at once what they read and write: gathered output heads during all layers,
    say. With this it orders them for the least memory; their results are the same.

    Args:
      platform: that the program is for.
    """
    return _ORDER if platform == "cpu" and _has_order() else None


@functools.cache
def _has_order() -> bool:
    """Whether this version of XLA has the option, or a CPU to ask about it."""
    import jax

    try:
        with jax.default_device(jax.devices("cpu")[0]):
            jax.jit(lambda: 0, compiler_options=_ORDER).lower().compile()
    except (RuntimeError, ValueError):
        return False
    return True
