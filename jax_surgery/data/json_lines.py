# SPDX-License-Identifier: Apache-2.0
"""Rows of a JSON file: an object a line, one array of objects, or one object.

Whatever bytes a file holds, each of its rows is plain Python or a ValueError that says
what is wrong with it.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

# Where a row stands, for errors, and the row, or a ValueError where it cannot be read.
Rows = Iterable[tuple[str, Any]]

# How files begin that hold no JSON in UTF-8, and what to do with them.
OTHERS = {
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"(\xb5/\xfd": "is compressed by zstandard; unpack it first",
    b"PAR1": "is a Parquet file; read its folder with hf:FOLDER",
    b"\x93NUMPY": "is an array of NumPy",
}


def rows(path: str, data: bytes) -> Iterator[tuple[str, Any]]:
    """The rows of a file, each with where it stands.

    Args:
      path: of the file, as errors name it.
      data: all of its bytes.

    Raises:
      ValueError: it holds something else than JSON in UTF-8.
    """
    for start, what in OTHERS.items():
        if data.startswith(start):
            raise ValueError(f"{path} {what}.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    whole = _whole(data, path.endswith(".json"))
    if isinstance(whole, dict):
        yield path, whole
        return
    if isinstance(whole, list):
        for number, row in enumerate(whole, start=1):
            yield f"{path}:row {number}", _checked(row)
        return
    if isinstance(whole, ValueError):
        yield path, whole
        return
    # Not str.splitlines: JSON strings may hold U+2028 and other line separators.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line)


def _whole(
    data: bytes, is_json: bool
) -> list[Any] | dict[str, Any] | ValueError | None:
    """The array or object that the whole file is; None where it is rows, one a line."""
    start = data.lstrip()[:1]
    first_line = data.lstrip().split(b"\n", 1)[0]
    if start == b"{" and (not is_json or isinstance(_parsed(first_line), dict)):
        return None
    if start not in (b"[", b"{"):
        return None
    whole = _parsed(data, check=start == b"{")
    if isinstance(whole, list | dict) or is_json and start == b"[":
        return whole
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would silently keep the last of two fields of a name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is given twice; leave one of them out")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON has")


def _checked(value: Any) -> Any:
    """The value, or a ValueError where its text holds what is no character."""
    try:
        _check_characters(value)
    except ValueError as error:
        return error
    return value


def _parsed(text: bytes, check: bool = True) -> Any:
    """JSON as plain Python, or a ValueError that says why it cannot be read.

    Args:
      check: whether its text may hold no half of a character.
    """
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
        )
        if check and b"\\u" in text:
            _check_characters(value)
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8 ({error})")
    except json.JSONDecodeError as error:
        return ValueError(f"not valid JSON ({error})")
    except RecursionError:
        return ValueError("is nested too deeply to be read")
    except ValueError as error:
        said = str(error)
        if "digits" in said:
            said = "a number has thousands of digits; give it as a string"
        return ValueError(said)
    return value


def _check_characters(value: Any) -> None:
    """Raises ValueError where text holds half of a character, which an escape can."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = f"\\u{ord(value[error.start]):04x}"
                raise ValueError(
                    f"text holds {half}, half of a surrogate pair, which is no "
                    "character; write the character itself"
                ) from None
