# SPDX-License-Identifier: Apache-2.0
"""What happens when a checkpoint cannot be saved: room on the disk, words, repetition."""

from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from jax_surgery.storage import space
from jax_surgery.storage.errors import StorageDenied, StorageError

TRIES = 6  # of the last save of a run, which there is no later one to make up for
WAIT = 2.0  # seconds before the second try; twice as long before each further one


# Bytes of arrays that are written at a time, or those of the largest.
AT_A_TIME = 2**28


def _bytes_of(leaf: Any) -> int:
    """Bytes of an array that this process writes: of each shard the first copy."""
    shards = leaf.addressable_shards if isinstance(leaf, jax.Array) else ()
    return sum(shard.data.nbytes for shard in shards if shard.replica_id == 0)


def bounded(state: Any) -> Any:
    """The context of Orbax within which a save of a state writes few arrays at a time.

    Of each that is being written there is a copy and its compressed form, and without a
    bound all are written at once.
    """
    from orbax.checkpoint import v1 as ocp

    largest = max(map(_bytes_of, jax.tree.leaves(state)), default=0)
    context = ocp.Context()
    # Orbax refuses an array of as many bytes as the bound.
    context.memory.write_concurrent_bytes = max(AT_A_TIME, largest + 1)
    return context


def bytes_here(state: Any) -> int:
    """Bytes of a state that this process writes: of each shard the first copy."""
    return sum(map(_bytes_of, jax.tree.leaves(state)))


def check_room(directory: epath.Path, state: Any) -> None:
    """Raises `DiskFull` where a checkpoint of a state does not fit beside what is there."""
    space.check(directory, bytes_here(state), "a checkpoint of the run")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """Why a save failed, in a line."""
    last = list(_chain(error))[-1]
    for one in _chain(error):
        if isinstance(one, StorageError):
            return str(one)
    words = " ".join(str(last).split()).partition(" [tensorstore_spec")[0]
    if words.startswith("ALREADY_EXISTS"):
        # TensorStore repeats a request whose answer was lost, and finds its own object.
        return "the storage carried out a request and its answer was lost"
    return words[:200] or type(last).__name__


def translated(error: BaseException, directory: epath.Path, state: Any) -> StorageError:
    """The error of a save that is not repeated any more."""
    if space.is_full(error):
        wanted = bytes_here(state)
        return space.full("a checkpoint of the run", directory, wanted)
    return StorageError(f"no checkpoint could be written: {reason(error)}")


def is_final(error: BaseException) -> bool:
    """Whether to try again would change nothing."""
    found = any(isinstance(one, StorageDenied) for one in _chain(error))
    return found or space.is_full(error)
