# SPDX-License-Identifier: Apache-2.0
"""Listing, writing and removing files in the same way on local disks and in buckets.

A file is there as a whole or not at all: local ones are written beside their place,
flushed to the disk and renamed, and an object of a bucket appears when its upload is
finished. Buckets are flat: a folder is there while it holds something.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

PARTIAL = ".partial-"  # in the names of files and folders that are being written


def is_remote(path: Any) -> bool:
    """Whether a path names a bucket, as gs://NAME/... does."""
    return "://" in str(path)


def children(folder: Any) -> list[epath.Path]:
    """What lies directly in a folder, sorted by name; [] where there is no such folder.

    Args:
      folder: local or in a bucket.

    Raises:
      NotADirectoryError: it is a file.
    """
    folder = epath.Path(folder)
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def names(folder: Any) -> list[str]:
    """The names of what lies directly in a folder; [] where there is no such folder."""
    return [item.name for item in children(folder)]


def matching(folder: Any, ending: str) -> list[epath.Path]:
    """The files directly in a folder whose names end so, sorted; [] without a folder."""
    return [item for item in children(folder) if item.name.endswith(ending)]


def _partial(target: epath.Path) -> epath.Path:
    return target.parent / f".{target.name}{PARTIAL}{uuid.uuid4().hex[:8]}"


def remove_partials(target: Any) -> None:
    """Removes what killed processes left half-written of a local file or folder.

    Nobody may be writing it.
    """
    target = epath.Path(target)
    if is_remote(target):
        return  # half an upload is no object
    for item in children(target.parent):
        if item.name.startswith(f".{target.name}{PARTIAL}"):
            remove(item)


@contextlib.contextmanager
def writing(path: Any) -> Iterator[IO[bytes]]:
    """A binary file to write, which is at `path` once the block has ended without error.

    What was there stays until then, and for good where the block raises.

    Args:
      path: local or in a bucket; folders above it are made.
    """
    path = epath.Path(path)
    if is_remote(path):
        opened = path.open("wb")
        try:
            yield opened
        except BaseException:
            # To close the file would finish the upload, of half of what it should be.
            with contextlib.suppress(Exception):
                opened.discard()  # pyrefly: ignore[missing-attribute]
            opened.closed = True  # pyrefly: ignore[read-only]
            raise
        opened.close()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with partial.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Any, data: bytes) -> None:
    """Writes a file as a whole; see `writing`."""
    with writing(path) as opened:
        opened.write(data)


def write_text(path: Any, text: str) -> None:
    """Writes a file as a whole, in UTF-8; see `writing`."""
    write_bytes(path, text.encode())


def copy(source: Any, target: Any) -> None:
    """Copies a file, which is at `target` as a whole; what is there is replaced."""
    with epath.Path(source).open("rb") as read, writing(target) as written:
        while part := read.read(2**24):
            written.write(part)


@contextlib.contextmanager
def made(target: Any) -> Iterator[epath.Path]:
    """A temporary path for a file or folder, which becomes the target on success.

    Args:
      target: replaced if it is a file or an empty folder. In a bucket it is written to
        at once, since folders cannot be renamed there, and what the block has written
        is removed where it raises.
    """
    target = epath.Path(target)
    if is_remote(target):
        try:
            yield target
        except BaseException:
            with contextlib.suppress(Exception):
                remove(target)
            raise
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        yield partial
        if target.is_dir():
            target.rmdir()
        partial.replace(target)
    except BaseException:
        remove(partial)
        raise


def move(source: Any, target: Any) -> None:
    """Renames a file or a folder; in a bucket one object after another."""
    epath.Path(source).rename(epath.Path(target))


def remove(path: Any) -> None:
    """Removes a file or a folder with all that it holds; nothing where it is absent."""
    path = epath.Path(path)
    if path.is_dir():
        path.rmtree(missing_ok=True)
    else:
        path.unlink(missing_ok=True)


def remove_if_empty(folder: Any) -> None:
    """Removes a local folder that holds nothing; in a bucket there is none then."""
    folder = epath.Path(folder)
    if not is_remote(folder) and folder.is_dir() and not names(folder):
        folder.rmdir()
