# SPDX-License-Identifier: Apache-2.0
"""Writes metrics as JSONL and for TensorBoard."""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsWriter(contextlib.AbstractContextManager):
    """Appends to DIR/metrics.jsonl and to event files in DIR/tensorboard.

    Files in a bucket cannot be appended to: for gs:// both are written locally and copied whole at
    every `flush`. Only the lead process writes.
    """

    def __init__(self, directory: Any, *, after: int = 0):
        """Continues after step `after`; lines of later steps are dropped.

        Args:
          directory: local or gs://; made where it does not exist.
          after: the step that a resumed run starts from.
        """
        self._writes = distributed.is_lead()
        if not self._writes:
            return
        import tensorboardX

        self._folder = epath.Path(directory)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._staging = None
        local = pathlib.Path(self._folder)
        if "://" in str(directory):
            local = self._staging = pathlib.Path(tempfile.mkdtemp())
        old = self._folder / METRICS_FILE
        earlier = [row for row in read_metrics(old) if row["step"] <= after]
        files.write_text(local / METRICS_FILE, as_lines(earlier))
        self._file = (local / METRICS_FILE).open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(local / TENSORBOARD), purge_step=after + 1
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes scalars of one step."""
        if not self._writes:
            return
        scalars = {key: float(value) for key, value in values.items()}
        self._file.write(as_lines([{"step": step, **scalars}]))
        self._file.flush()
        for key, value in scalars.items():
            self._tensorboard.add_scalar(key, value, step)

    def flush(self) -> None:
        """Makes what was written visible in the directory."""
        if not self._writes:
            return
        self._tensorboard.flush()
        self._upload()

    def _upload(self) -> None:
        if self._staging is None:
            return
        for file in self._staging.rglob("*"):
            if file.is_file():
                files.copy(file, self._folder / str(file.relative_to(self._staging)))

    def close(self) -> None:
        """Flushes and closes the files."""
        if not self._writes:
            return
        self._tensorboard.close()
        self._file.close()
        try:
            self._upload()
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging)

    def __exit__(self, kind, *exc):
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # another error ends the run
            self.close()


def as_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the lines of a JSONL file."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_metrics(path: Any) -> list[dict[str, float]]:
    """All lines of a metrics.jsonl; [] where there is none.

    An incomplete last line, left by a killed process, is not read. Other lines that are
    damaged are left out too, and said.

    Raises:
      ValueError: a folder has that name.
    """
    file = epath.Path(path)
    if not file.exists():
        return []
    if file.is_dir():
        raise ValueError(f"{file} is a folder and not a file; move it elsewhere.")
    rows, damaged = [], []
    complete = file.read_bytes().rpartition(b"\n")[0]
    for number, line in enumerate(complete.split(b"\n"), start=1):
        row = _parsed(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            damaged.append(number)
    if damaged:
        print(
            f"{file}: {len(damaged)} damaged lines are left out, first line {damaged[0]}"
        )
    return rows


def _parsed(line: bytes) -> dict[str, float] | None:
    """The numbers of a line, its step among them; None where it holds none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    right = all(isinstance(value, int | float) for value in row.values())
    return row if right else None
