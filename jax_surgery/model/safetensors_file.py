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
from collections.abc import Iterable

import ml_dtypes
import numpy as np
from etils import epath

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 2**26  # bytes of one read
READERS = 8  # reads at a time: a bucket gives one reader little


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
      file: the safetensors file.
      kind: the format's name of its dtype, of which `DTYPES` are read.
      shape: of the tensor.
      offset: of its first byte in the file.
    """

    file: epath.Path
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.kind]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: epath.Path) -> dict[str, Entry]:
    """All tensors of a file, by name.

    Raises:
      ValueError: not a safetensors file, or not the whole of one.
    """
    size = file.stat().length
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        # Checked first: the length of anything else would be an absurd one to read.
        raw = opened.read(length) if length <= size - 8 else b""
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ValueError(
            f"{file} ({size} bytes) is not a safetensors file, or its beginning is "
            "lost. Download it again."
        ) from error
    header.pop("__metadata__", None)
    start = 8 + length
    end = start + max((e["data_offsets"][1] for e in header.values()), default=0)
    if size != end:
        raise ValueError(
            f"{file} has {size} bytes, and {end} by its header: it was not written or "
            "downloaded to the end. Get it again."
        )
    return {
        name: Entry(file, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0])
        for name, e in header.items()
    }


def read_rows(entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows start to stop (along the first axis) of a tensor; no other byte is read."""
    row = entry.nbytes // entry.shape[0]
    data = np.empty((stop - start) * row, np.uint8)
    view = memoryview(data)

    def read(begin: int) -> None:
        part = view[begin : begin + CHUNK]
        with entry.file.open("rb") as opened:
            opened.seek(entry.offset + start * row + begin)
            while part:
                count = opened.readinto(part)
                if not count:
                    raise OSError(f"{entry.file} ended while it was read.")
                part = part[count:]

    begins = range(0, data.nbytes, CHUNK)
    if len(begins) == 1:
        read(0)
    else:
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            list(pool.map(read, begins))
    return data.view(entry.dtype).reshape(stop - start, *entry.shape[1:])


def write(
    file: epath.Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: np.dtype,
    tensors: Iterable[np.ndarray],
) -> None:
    """Writes a file.

    Args:
      file: replaced where it exists.
      shapes: of the tensors, by name.
      dtype: of all of them.
      tensors: in the order of `shapes`; each is taken when its turn comes.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # so that the tensors are aligned
    with file.open("wb") as opened:
        opened.write(len(raw).to_bytes(8, "little") + raw)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise ValueError(
                    f"{name} is {tensor.dtype} {tensor.shape}; the header of {file} "
                    f"says {dtype} {shape}."
                )
            flat = np.ascontiguousarray(tensor).reshape(-1)
            opened.write(memoryview(flat.view(np.uint8)))
