# SPDX-License-Identifier: Apache-2.0
"""The report page of an evaluation: what one model scores, without a before."""

import dataclasses
from typing import Any

from etils import epath

from jax_surgery.metrics import tofu
from jax_surgery.report import page, summary, table, writer


def write(directory: str, results: dict[str, Any]) -> epath.Path:
    """Writes report/index.html, and gives its place; for the lead process.

    Args:
      directory: of the run.
      results: see `runs.evaluate.run`.
    """
    asked, measured = results["evaluation"], results.get("metrics", {})
    rows = table.accuracy_rows(asked, asked) + table.metric_rows(measured, measured)
    rows += [table.text_row(name, text) for name, text in results["text"].items()]
    intervals = {"Wilson": asked, "see the metrics": measured or results["text"]}
    shown = page.Page(
        title="Evaluation",
        subtitle=f"model {results['model']}",
        verdict=summary.of(results),
        rows=[dataclasses.replace(row, goal="") for row in rows],
        single=True,
        intervals=", ".join(how for how, found in intervals.items() if found),
        chances=table.chances_of(asked),
        settings=results["settings"],
        headlines=tofu.summary(results["tofu"]) if "tofu" in results else [],
    )
    return writer.write_page(epath.Path(directory), shown)
