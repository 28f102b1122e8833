# SPDX-License-Identifier: Apache-2.0
"""Whether a disk has room for what will be written."""

import errno
import os
import pathlib
import shutil
from typing import Any

from jax_surgery.storage import files
from jax_surgery.storage.errors import DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


def in_words(size: float) -> str:
    """Bytes, as 3.2 GiB."""
    unit = "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def left(path: Any) -> int:
    """Bytes that are free on the disk of a local path, which need not exist."""
    folder = pathlib.Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def full(what: str, path: Any, needed: int | None = None) -> DiskFull:
    """The error of a disk that is full.

    Args:
      what: is written, e.g. "the model".
      path: where.
      needed: bytes; None where it is not known.
    """
    wanted = f"needs {in_words(needed)}" if needed else "does not fit"
    return DiskFull(
        f"the disk is full: {what} {wanted} in {path}, where {in_words(left(path))} "
        "are left. Make room, or take a --workdir on another disk."
    )


def check(path: Any, needed: int, what: str) -> None:
    """Raises `DiskFull` where a local disk lacks room; buckets always have room.

    Args:
      path: of the file or folder that will be written.
      needed: bytes.
      what: is written, for the message.
    """
    if not files.is_remote(path) and needed > left(path):
        raise full(what, path, needed)


def reserve(file: Any, size: int, what: str) -> None:
    """Makes a local file of `size` bytes whose place on the disk is taken.

    A file that is mapped into memory grows as it is written to, and where the disk is
    full by then the process is killed (SIGBUS) without a word.

    Raises:
      DiskFull: there is no room; no file is left.
    """
    path = pathlib.Path(file)
    check(path, size, what)
    try:
        with path.open("wb") as opened:
            opened.truncate(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in FULL:
            raise full(what, path, size) from error
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        # TensorStore's errors have words alone.
        if "No space left on device" in str(error) or "Disk quota" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
