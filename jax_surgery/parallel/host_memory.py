# SPDX-License-Identifier: Apache-2.0
"""Memory of the host, which on CPU is the device's."""

import ctypes
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
