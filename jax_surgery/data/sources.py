# SPDX-License-Identifier: Apache-2.0
"""Rows of JSONL files, Hugging Face datasets, TFDS, packaged text and benchmarks.

A reader gives rows as plain Python. TFDS needs no TensorFlow: it is read as array_record.
"""

import contextlib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from etils import epath

from jax_surgery.data import general, json_lines
from jax_surgery.data.json_lines import Rows

Reader = Callable[[str], Iterable[Any]]

T = TypeVar("T")

MAX_ERRORS_SHOWN = 5

# Modules that register a TFDS builder when they are imported, by the start of its name.
TFDS_BUILDERS: dict[str, str] = {}

# NAME (of a directory perhaps with gs://), then perhaps a version, then perhaps a split
# (which may hold "[:10%]").
_TFDS_NAME = re.compile(
    r"(?P<name>(?:\w+://)?[^:]+(?::(?:\d+|\*)(?:\.(?:\d+|\*)){2})?)(?::(?P<split>.+))?"
)


def read_jsonl(path: str, missing: str) -> Rows:
    """A JSON object a line, UTF-8, blank lines left out; or one array of objects.

    Args:
      path: of the file.
      missing: what is said where there is no such file.

    Raises:
      FileNotFoundError: no file at `path`.
      ValueError: it is a folder, cannot be read, or holds something else than text.
    """
    return json_lines.rows(path, _read(path, missing))


def _read(path: str, missing: str) -> bytes:
    """The bytes of a file of rows."""
    file = epath.Path(path)
    try:
        if not file.exists():
            raise FileNotFoundError(missing)
        if file.is_dir():
            raise ValueError(
                f"{path} is a folder and not a file of rows; give a file in it, or "
                f"hf:{path} for a dataset that was saved there."
            )
        return file.read_bytes()
    except PermissionError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); change its permissions."
        ) from None


def parse_rows(rows: Rows, parse: Callable[[Any, str], T], source: str) -> list[T]:
    """What `parse` makes of each (row, where it stands).

    Raises:
      ValueError: malformed rows, the first few by where they stand, and their number.
    """
    found, errors = [], []
    for where, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            found.append(parse(row, where))
        except ValueError as error:
            errors.append(f"{where}: {error}")
        except RecursionError:
            errors.append(f"{where}: is nested too deeply to be read")
    if len(errors) == 1:
        raise ValueError(f"1 bad row in {source}: {errors[0]}")
    if errors:
        shown = "\n  ".join(errors[:MAX_ERRORS_SHOWN])
        more = len(errors) - MAX_ERRORS_SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        raise ValueError(f"{len(errors)} bad rows in {source}:\n  {shown}{rest}")
    return found


@contextlib.contextmanager
def _library(source: str) -> Iterator[None]:
    """What a library raises inside becomes one line that names the source.

    Raises:
      ValueError: whatever was raised.
    """
    try:
        yield
    except Exception as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"{source} cannot be read ({type(error).__name__}: "
            f"{said[0] if said else 'no reason given'}); check its name, and that it "
            "can be reached from here."
        ) from error


def _hf_dataset(path: str, config: str, split: str, source: str) -> Any:
    import datasets

    folder = epath.Path(path)
    saved = ("state.json", "dataset_dict.json")
    if folder.is_dir() and any((folder / name).exists() for name in saved):
        if config:
            raise ValueError(
                f"{source}: a saved directory has no config; leave out @{config}."
            )
        with _library(source):
            loaded = datasets.load_from_disk(path)
    elif split:  # the hub slices, e.g. train[:10%]
        with _library(source):
            return datasets.load_dataset(path, config or None, split=split)
    else:
        with _library(source):
            loaded = datasets.load_dataset(path, config or None)
    if isinstance(loaded, datasets.Dataset):
        if split:
            raise ValueError(
                f"{source}: the saved dataset has no splits; leave out :{split}."
            )
        return loaded
    names = [str(name) for name in loaded]
    if not split and len(names) == 1:
        split = names[0]
    if split not in names:
        raise ValueError(
            f"{source} has the splits {', '.join(names)}; name one, as hf:NAME:SPLIT."
        )
    return loaded[split]


def read_hf(name: str) -> Iterator[dict[str, Any]]:
    """A dataset of the hub, `NAME[@CONFIG][:SPLIT]`, or a saved `DIRECTORY[:SPLIT]`.

    Raises:
      ValueError: the split is not stated and there are several, or is not there.
    """
    scheme, mark, rest = name.rpartition("://")  # gs://, of a saved directory
    rest, _, split = rest.partition(":")
    rest, _, config = rest.partition("@")
    path = f"{scheme}{mark}{rest}"
    dataset = _hf_dataset(path, config, split, f"hf:{name}")
    rows = iter(dataset)
    while True:
        with _library(f"hf:{name}"):
            row = next(rows, None)
        if row is None:
            return
        # Arrow gives every column to every row: a missing field comes as None.
        yield {k: v for k, v in row.items() if v is not None}


def _plain(value: Any) -> Any:
    """A TFDS value as plain Python; its lists of objects come as lists by name."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        columns = {name: _plain(column) for name, column in value.items()}
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


def read_tfds(name: str) -> Iterator[dict[str, Any]]:
    """A TFDS dataset, NAME[:SPLIT]; NAME may be a prepared directory.

    It is downloaded and prepared (as array_record) if it is not yet there, in
    TFDS_DATA_DIR or TFDS' default folder. The split is "train" where left out.

    Raises:
      ValueError: no such split.
    """
    import tensorflow_datasets as tfds

    matched = _TFDS_NAME.fullmatch(name)
    if not matched:
        raise ValueError(f"tfds:{name} is not understood; use tfds:NAME[:SPLIT].")
    dataset, split = matched["name"], matched["split"] or "train"
    for start, module in TFDS_BUILDERS.items():
        if dataset.startswith(start):
            importlib.import_module(module)
    with _library(f"tfds:{name}"):
        if epath.Path(dataset).is_dir():
            builder = tfds.builder_from_directory(dataset)
        else:
            builder = tfds.builder(dataset, file_format="array_record")
            builder.download_and_prepare()
    if (
        split.partition("[")[0] not in {*builder.info.splits, "all"}
        and "+" not in split
    ):
        raise ValueError(
            f"tfds:{name} has the splits {', '.join(builder.info.splits)}; name one, "
            "as tfds:NAME:SPLIT."
        )
    with _library(f"tfds:{name}"):
        source: Any = builder.as_data_source(split=split)
    for number in range(len(source)):
        with _library(f"tfds:{name}"):
            row = {key: _plain(value) for key, value in source[number].items()}
        yield row


# By the word before the colon; `jax_surgery.benchmarks` adds its own.
READERS: dict[str, Reader] = {"hf": read_hf, "tfds": read_tfds}
# By a whole name, after which no colon follows.
PACKAGED: dict[str, Callable[[], Iterable[Any]]] = {"general": general.read}


def rows_of(source: str) -> Rows:
    """The rows of a source, by its name, the word before its colon, or its ending.

    Raises:
      ValueError: the source is not understood.
    """
    kind, colon, name = source.partition(":")
    if kind in PACKAGED:
        if colon:
            raise ValueError(
                f"data source {source!r} does not exist; {kind} is one set of text, "
                f"write {kind}."
            )
        rows = enumerate(PACKAGED[kind](), start=1)
        return ((f"{source}:{number}", row) for number, row in rows)
    if colon and kind in READERS:
        if not name:
            raise ValueError(f"data source {source!r} names nothing after {kind}:.")
        rows = enumerate(READERS[kind](name), start=1)
        return ((f"{source}:{number}", row) for number, row in rows)
    if source.endswith((".jsonl", ".json")):
        return read_jsonl(
            source,
            f"data file {source!r} does not exist; a source is a path.jsonl, hf:NAME, "
            "tfds:NAME, embedded:NAME or general.",
        )
    raise ValueError(
        f"data source {source!r} is not understood; use a path ending in .jsonl, "
        "hf:NAME[@CONFIG][:SPLIT], tfds:NAME[:SPLIT], embedded:NAME or general."
    )
