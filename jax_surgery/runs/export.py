# SPDX-License-Identifier: Apache-2.0
"""Exports the embedded benchmark as JSONL and TFDS files, without TensorFlow."""

import dataclasses
import json

from etils import epath

from jax_surgery.benchmarks import embedded


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Writing the embedded benchmark's files (`run = "export"`, or "benchmark")."""

    run: str


def run(settings: ExportSettings, directory: str) -> dict[str, int]:
    """Writes `jsonl/*.jsonl` and `tfds/` to a directory; returns lines by file."""
    del settings
    folder = epath.Path(directory) / "jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: embedded.load(name) for name in embedded.SETS}
    files["questions"] = [question.record() for question in embedded.questions()]
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    from jax_surgery.benchmarks.embedded.builder import EmbeddedWorld

    for config in ("texts", "questions"):
        EmbeddedWorld(
            data_dir=str(epath.Path(directory) / "tfds"),
            config=config,
            file_format="array_record",
        ).download_and_prepare()
    counts = {f"{name}.jsonl": len(rows) for name, rows in files.items()}
    print(f"wrote {counts} and TFDS files under {directory}")
    return counts
