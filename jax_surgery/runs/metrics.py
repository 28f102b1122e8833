# SPDX-License-Identifier: Apache-2.0
"""Writes metrics as JSONL and for TensorBoard."""

import json
from typing import Any

from etils import epath


class MetricsWriter:
    """Appends to DIR/metrics.jsonl and to event files in DIR/tensorboard."""

    def __init__(self, directory: str):
        import tensorboardX

        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._tensorboard = tensorboardX.SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes scalars of one step."""
        scalars = {key: float(value) for key, value in values.items()}
        line = json.dumps({"step": step, **scalars}) + "\n"
        if str(self.path).startswith("gs://"):  # objects cannot be appended to
            old = self.path.read_text() if self.path.exists() else ""
            self.path.write_text(old + line)
        else:
            with self.path.open("a") as file:
                file.write(line)
        for key, value in scalars.items():
            self._tensorboard.add_scalar(key, value, step)

    def truncate(self, step: int) -> None:
        """Drops lines after `step`: a resumed run writes them again."""
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= step]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._tensorboard.close()


def read_metrics(path: Any) -> list[dict[str, float]]:
    """All lines of a metrics.jsonl."""
    text = epath.Path(path).read_text()
    return [json.loads(line) for line in text.splitlines() if line]
