# SPDX-License-Identifier: Apache-2.0
"""Writes the results of a run: results.json, the report page, the printed table."""

import json
import shutil
from typing import Any

from etils import epath

from jax_surgery.command_line import COLUMNS, shown_path, wrapped
from jax_surgery.parallel import distributed
from jax_surgery.report import page, summary, table
from jax_surgery.storage import files
from jax_surgery.train.metrics_file import METRICS_FILE, read_metrics

# What lies beside the model and may hold what was removed from it.
RESTORES = {
    "edit.safetensors": "can restore what was removed",
    "adapter": "is the change itself",
    "checkpoints": "hold the model on its way",
    "stages": "hold the model on its way",
    "fit": "holds the model before",
    "reference": "holds what the model before made of the text",
    "report": "quotes answers from before",
}


def write(directory: str, results: dict[str, Any], shown: page.Page) -> None:
    """Writes results.json and report/index.html, and prints the table, on the lead
    process.

    Args:
      directory: of the run; metrics.jsonl in it is drawn.
      results: what results.json holds, beside the settings and the versions.
      shown: the page, `settings` and `rows` among it; its sections are those for which
        it has something.
    """
    if not distributed.is_lead():
        return
    folder = epath.Path(directory)
    everything = results | {
        "settings": shown["settings"],
        "versions": page.versions(),
    }
    text = json.dumps(everything, indent=2) + "\n"
    files.write_text(folder / "results.json", text)
    answers = summary.of(everything)
    write_page(folder, page.Page(verdict=answers) | shown)
    print()
    for answer in answers:
        print(wrapped(str(answer)))
    for sentence in shown.get("headlines", ()):
        print(wrapped(sentence))
    for warning in shown.get("warnings", ()):
        print(wrapped(f"Warning: {warning}"))
    if answers or shown.get("headlines"):
        print()
    width = shutil.get_terminal_size((COLUMNS, 24)).columns
    now = "score" if shown.get("single") else "after"
    print(table.as_text(shown["rows"], width - 1, now))
    for sentence in shown.get("sentences", ()):
        print(wrapped(sentence))
    if beside := _beside(folder):
        print(wrapped(beside))


def write_page(folder: epath.Path, shown: page.Page) -> epath.Path:
    """Writes report/index.html as a whole, and gives its place; for the lead process.

    Args:
      folder: of the run; metrics.jsonl in it is drawn.
      shown: see `write`.
    """
    metrics = read_metrics(folder / METRICS_FILE)
    file = folder / "report" / "index.html"
    files.write_text(file, page.render(page.Page(metrics=metrics) | shown))
    return file


def _beside(folder: epath.Path) -> str:
    """What of a workdir must not be published with its model; "" where it has none."""
    if not (folder / "model").exists():
        return ""
    there = [f"{n} {why}" for n, why in RESTORES.items() if (folder / n).exists()]
    return (
        f"Publish {shown_path(folder / 'model')} alone; beside it {', '.join(there)}."
        if there
        else ""
    )
