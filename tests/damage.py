# SPDX-License-Identifier: Apache-2.0
"""What happens to files: bits flip, ends are lost, whole files are gone."""

import pathlib


def largest(step: pathlib.Path, part: str = "state") -> pathlib.Path:
    """The largest file of a part of a checkpoint: of the arrays' numbers."""
    files = [file for file in (step / part).rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def flip(file: pathlib.Path, place: float = 0.5) -> None:
    """Flips the lowest bit of a byte, at a share of the file's length."""
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def cut(file: pathlib.Path, share: float = 0.5) -> None:
    """Leaves the first part of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


def remove(file: pathlib.Path) -> None:
    """Removes a file."""
    file.unlink()
