# SPDX-License-Identifier: Apache-2.0
"""Exports the embedded benchmark as JSONL and TFDS files, without TensorFlow."""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile

from etils import epath

from jax_surgery.benchmarks import embedded
from jax_surgery.command_line import shown_path, wrapped
from jax_surgery.parallel import progress
from jax_surgery.storage import files


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Writing the embedded benchmark's files (`run = "export"`, or "benchmark")."""

    run: str


def run(settings: ExportSettings, directory: str) -> dict[str, int]:
    """Writes `jsonl/*.jsonl` and `tfds/` to a directory; returns lines by file."""
    del settings
    folder = epath.Path(directory) / "jsonl"
    with progress.phase("writing JSONL files"):
        sets = {name: embedded.load(name) for name in embedded.SETS}
        sets["questions"] = [question.record() for question in embedded.questions()]
        for name, rows in sets.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            files.write_text(folder / f"{name}.jsonl", lines)
    with progress.phase("loading TensorFlow Datasets"):
        import tensorflow_datasets as tfds

        from jax_surgery.benchmarks.embedded.builder import EmbeddedWorld

    # array_record writes to disks alone, so a bucket gets a copy.
    configs = [config.name for config in EmbeddedWorld.BUILDER_CONFIGS]
    tfds.disable_progress_bar()  # ours says how far it is
    with tempfile.TemporaryDirectory() as local:
        for config in progress.Bar(configs, title="writing TFDS files", unit="config"):
            builder = EmbeddedWorld(
                data_dir=local, config=config, file_format="array_record"
            )
            with contextlib.redirect_stdout(io.StringIO()):  # names the local folder
                builder.download_and_prepare()
        for file in pathlib.Path(local).rglob("*"):
            if file.is_file():
                name = str(file.relative_to(local))
                files.copy(file, epath.Path(directory) / "tfds" / name)
    counts = {f"{name}.jsonl": len(rows) for name, rows in sets.items()}
    each = ", ".join(f"{count:,} lines in {name}" for name, count in counts.items())
    print(wrapped(f"{shown_path(directory)} has jsonl/ ({each}) and tfds/."))
    return counts
