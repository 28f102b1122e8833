# SPDX-License-Identifier: Apache-2.0
"""What happens to files, as hypothesis draws it: bytes flip, ends are cut, files go."""

import json
import pathlib
import shutil
from typing import Any

from hypothesis import strategies as st

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, 10**30, 1e300, -0.5, float("nan")]),
    st.text(max_size=4),
    st.lists(st.integers(-1, 3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
)


def files_of(folder: pathlib.Path) -> list[str]:
    """Every file below a folder, by its path there."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _field(draw: Any, file: pathlib.Path) -> None:
    """Changes, removes or adds a field of a JSON object, at any depth."""
    card = json.loads(file.read_text())
    section = card
    while isinstance(section, dict) and section:
        key = draw(st.sampled_from(sorted(section)))
        inner = section[key]
        if isinstance(inner, dict) and inner and draw(st.booleans()):
            section = inner
            continue
        if draw(st.booleans()):
            section[key] = draw(ODD)
        else:
            del section[key]
        break
    file.write_text(json.dumps(card))


def damage(draw: Any, folder: pathlib.Path, names: list[str]) -> str:
    """Does something to one of the files; returns what, for the failing example.

    Args:
      draw: of a composite strategy or `st.data()`.
      folder: its files change.
      names: of the files that may.
    """
    name = draw(st.sampled_from(names))
    file = folder / name
    ways = ["flip", "cut", "remove", "empty", "folder", "garbage"]
    if not file.is_file():
        return f"{name} is gone already"
    data = bytearray(file.read_bytes())
    if name.endswith(".json") and data[:1] == b"{":
        ways += ["field"] * 4
    way = draw(st.sampled_from(ways))
    match way:
        case "flip" if data:
            for _ in range(draw(st.integers(1, 3))):
                data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
            file.write_bytes(data)
        case "cut" if data:
            file.write_bytes(data[: draw(st.integers(0, len(data) - 1))])
        case "remove":
            file.unlink()
        case "folder":
            file.unlink()
            file.mkdir()
        case "garbage":
            file.write_bytes(draw(st.binary(max_size=20)))
        case "field":
            try:
                _field(draw, file)
            except ValueError:  # was damaged before
                file.write_bytes(b"{")
        case _:
            file.write_bytes(b"")
    return f"{way} {name}"


def copied(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A fresh copy of a folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
