# SPDX-License-Identifier: Apache-2.0
"""The safetensors format: ranges of tensors in, one tensor at a time out.

A file is the header's length (8 bytes, little-endian), the header (JSON: dtype, shape
and byte range of every tensor) and the tensors. The library of that name maps files
into memory, where every page it touched counts as the process', writes a file from all
its tensors at once, and needs local files. Here host memory is what is asked for, and
any path that `etils.epath` opens will do, gs:// included.
"""

import concurrent.futures
import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import IO, Any

import ml_dtypes
import numpy as np
from etils import epath

from jax_surgery.storage import files, space

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
# Weights are of `DTYPES`; bytes that are no weights may lie beside them.
KINDS = DTYPES | {"U8": np.dtype(np.uint8)}
NAMES = {dtype: name for name, dtype in KINDS.items()}
METADATA = "__metadata__"
CHUNK = 2**26  # bytes of one read
READERS = 8  # reads at a time: a bucket gives one reader little


@dataclasses.dataclass(frozen=True)
class Entry:
    """The place of a tensor in a file.

    Attributes:
      file: the safetensors file.
      kind: the format's name of its dtype, of which `KINDS` are read.
      shape: of the tensor.
      offset: of its first byte in the file.
      name: of the tensor in the file.
    """

    file: epath.Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    name: str

    @property
    def dtype(self) -> np.dtype:
        return KINDS[self.kind]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _size(held: Any) -> int:
    """Bytes of a tensor by its part of a header.

    Raises:
      KeyError, TypeError, ValueError: it is none, or its numbers do not fit together.
    """
    kind, shape, (start, stop) = held["dtype"], held["shape"], held["data_offsets"]
    numbers = [*shape, start, stop]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError
    if kind in KINDS and math.prod(shape) * KINDS[kind].itemsize != stop - start:
        raise ValueError
    return stop - start


def _header(file: epath.Path) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its tensors start."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder and not a file. Download it again.")
    size = file.stat().length
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        # Checked first: the length in a file of another format may be absurd.
        raw = opened.read(length) if length <= size - 8 else b""
    try:
        header = json.loads(raw)
        tensors = {n: held for n, held in header.items() if n != METADATA}
        total = sum(map(_size, tensors.values()))
        ends = (held["data_offsets"][1] for held in tensors.values())
        # Every byte is of one tensor.
        if total != max(ends, default=0):
            raise ValueError
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} ({size} bytes) is not a safetensors file, or its beginning is "
            "lost. Download it again."
        ) from error
    start = 8 + length
    end = start + total
    if size != end:
        raise ValueError(
            f"{file} has {size} bytes, but its header says {end}: it was not written or "
            "downloaded completely. Download it again."
        )
    return header, start


def read_metadata(file: epath.Path) -> dict[str, str]:
    """The metadata in a file's header.

    Raises:
      ValueError: see `read_header`.
    """
    return _header(file)[0].get(METADATA, {})


def read_header(file: epath.Path) -> dict[str, Entry]:
    """All tensors of a file, by name.

    Raises:
      ValueError: not a safetensors file, or not the whole of one.
    """
    header, start = _header(file)
    header.pop(METADATA, None)
    return {
        name: Entry(
            file, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0], name
        )
        for name, e in header.items()
    }


def read_rows(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows start to stop (along the first axis) of a tensor; no other byte is read."""
    row = entry.nbytes // entry.shape[0]
    data = np.empty((stop - start) * row, np.uint8)
    view = data.data

    def read(begin: int) -> None:
        part = view[begin : begin + CHUNK]
        with entry.file.open("rb") as opened:
            opened.seek(entry.offset + start * row + begin)
            while part:
                # Files have `readinto`, and `typing.IO` has not.
                count = opened.readinto(part)  # pyrefly: ignore[missing-attribute]
                if not count:
                    raise OSError(f"{entry.file} ended while it was read.")
                part = part[count:]

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(0, data.nbytes, CHUNK)))
    return data.view(entry.dtype).reshape(stop - start, *entry.shape[1:])


def write(
    file: epath.Path,
    layout: dict[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterable[np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes a file.

    Args:
      file: replaced where it exists, once all is written.
      layout: (shape, dtype) of each tensor, by name.
      tensors: in the order of `layout`; each is taken when its turn comes.
      metadata: further text for the header (see `read_metadata`).
    """
    header: dict[str, Any] = {METADATA: {"format": "pt"} | (metadata or {})}
    offset = 0
    for name, (shape, dtype) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # so that the tensors are aligned
    space.check(file, 8 + len(raw) + offset, file.name)
    with files.writing(file) as opened:
        opened.write(len(raw).to_bytes(8, "little") + raw)
        for name, tensor in zip(layout, tensors, strict=True):
            shape, dtype = layout[name]
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise ValueError(
                    f"{name} is {tensor.dtype} {tensor.shape}; the header of {file} "
                    f"says {dtype} {shape}."
                )
            flat = np.ascontiguousarray(tensor).reshape(-1)
            opened.write(flat.view(np.uint8).data)


def rewrite(
    file: epath.Path,
    into: epath.Path,
    change: dict[str, Callable[[int, np.ndarray], np.ndarray]],
    *,
    elements: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> None:
    """Copies a file, some of whose tensors change; every other byte stays.

    Args:
      file: read once, from its first byte to its last.
      into: replaced where it exists.
      change: by name of a tensor, what its rows from `start` on become, of the same
        shape and dtype: change(start, rows) -> rows. Called in the order of the rows.
      elements: of the tensor in one call, about; a call has whole rows.
      progress: called with the number of bytes as they are written.
    """
    entries = read_header(file)
    with file.open("rb") as source, files.writing(into) as target:
        for name in sorted(change, key=lambda name: entries[name].offset):
            entry = entries[name]
            _copy(source, target, entry.offset - source.tell(), progress)
            width = math.prod(entry.shape[1:])
            step = max(1, elements // width)
            for start in range(0, entry.shape[0], step):
                count = min(step, entry.shape[0] - start)
                raw = source.read(count * width * entry.dtype.itemsize)
                rows = np.frombuffer(raw, entry.dtype).reshape(count, *entry.shape[1:])
                changed = np.ascontiguousarray(change[name](start, rows))
                if (changed.shape, changed.dtype) != (rows.shape, rows.dtype):
                    raise ValueError(
                        f"{name} became {changed.dtype} {changed.shape}; the header of "
                        f"{file} says {rows.dtype} {rows.shape}."
                    )
                target.write(changed.reshape(-1).view(np.uint8).data)
                progress(len(raw))
        _copy(source, target, file.stat().length - source.tell(), progress)


def _copy(
    source: IO[bytes], target: IO[bytes], count: int, progress: Callable[[int], Any]
) -> None:
    """Copies the next bytes of a file."""
    while count:
        part = source.read(min(count, CHUNK))
        if not part:
            raise OSError(f"{source.name} ended while it was read.")
        target.write(part)
        progress(len(part))
        count -= len(part)
