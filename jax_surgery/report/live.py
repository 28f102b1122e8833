# SPDX-License-Identifier: Apache-2.0
"""The page of a run that goes on, to be watched: written from the first evaluation on, and
again at each one, until the finished page takes its place.

It shows what the run's own files hold by then (curve.jsonl, metrics.jsonl, automatic.jsonl,
those of stages), so a run that was resumed shows all of it. In a bucket metrics.jsonl is as
old as the last checkpoint.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from jax_surgery.methods.automatic.controller import POINTS
from jax_surgery.parallel import distributed
from jax_surgery.report import budget, page, pictures, writer
from jax_surgery.report.table import Row, percent
from jax_surgery.storage import files
from jax_surgery.train.curve import read_curve
from jax_surgery.train.loop import Callback, Interrupted, State, TrainingDiverged
from jax_surgery.train.metrics_file import METRICS_FILE, read_metrics

RELOAD = 15  # seconds after which a browser reads the page again
FIRST = "before the first step"
SHARE = 0.05  # of the time, that pages may take where rounds are many and short


class Live:
    """Writes the page of a run that goes on; the lead process does."""

    def __init__(self, directory: str, shown: page.Page, most: float = 0.0):
        """Takes what is known before the run changes the model.

        Args:
          directory: of the run.
          shown: its page, with rows of before (see `begun`).
          most: nats per token that held-out text may move by; 0 is no budget.
        """
        self._folder, self._shown, self._budget = epath.Path(directory), shown, most
        self._steps = False  # whether some were taken
        self._free = 0.0  # the time from which on a page that may wait is written

    def write(self, where: str = FIRST, shown: page.Page | None = None) -> None:
        """Writes the page.

        Args:
          where: how far the run has come, such as "at step 20".
          shown: what it shows from now on; None leaves that as it is.
        """
        self._shown = shown or self._shown
        self._steps = where != FIRST
        at = f"written {where}, {_now()}"
        self._write(
            f"The run goes on: this page was {at}, is written again at each evaluation, "
            f"and reads itself again every {RELOAD} seconds. Where that time stands "
            "still, the run has stopped.",
            RELOAD,
        )

    def callbacks(self, every: int, what: str = "step") -> list[Callback]:
        """Writes the page between steps, after what is asked there; [] with `every` 0."""

        def run(number: int, state: State) -> State:
            if number:
                self.write(f"at {what} {number}")
            return state

        return [Callback(every, run)] if every else []

    def between_rounds(self) -> list[Callback]:
        """Writes the page after rounds, as often as takes `SHARE` of the time at most."""

        def run(number: int, state: State) -> State:
            began = time.monotonic()
            if number and began >= self._free:
                self.write(f"at round {number}")
                now = time.monotonic()
                self._free = now + (now - began) / SHARE
            return state

        return [Callback(1, run)]

    @contextlib.contextmanager
    def until_finished(self) -> Iterator[None]:
        """Says on the page why a run has stopped, where it does in the block; of one that is
        refused before its first step no page is left."""
        try:
            yield
        except (Interrupted, TrainingDiverged) as error:
            self._write(f"The run has stopped ({_now()}): {error}", 0)
            raise
        except (ValueError, FileNotFoundError):
            # Refused before the first step: its workdir is to be free again.
            if not self._steps and distributed.is_lead():
                files.remove(self._folder / "report")
            raise

    def _write(self, unfinished: str, reload: int) -> None:
        if not distributed.is_lead():
            return
        more = page.Page(unfinished=unfinished, reload=reload, figures=self._figures())
        if points := read_curve(str(self._folder)):
            now = points[-1]
            rows = [_with_score(row, now) for row in self._shown["rows"]]
            more |= page.Page(curve=points, rows=rows, now=f"step {now['step']}")
        writer.write_page(self._folder, page.Page(**self._shown | more))

    def _figures(self) -> list[page.Figure]:
        found = []
        for folder in files.children(self._folder / "stages"):
            if svg := pictures.tokens_left(read_metrics(folder / METRICS_FILE)):
                title = f"Stage {folder.name}: tokens that are not at their ends"
                caption = "Of a batch of each round; a stage ends where few are left."
                found.append(page.Figure(title=title, svg=svg, caption=caption))
        if self._budget:
            points = read_metrics(self._folder / POINTS)
            found += budget.figures({"budget": self._budget, "curve": points})
        return found


def begun(rows: Sequence[Row]) -> list[Row]:
    """Rows of a table of which nothing is known yet but what was before."""
    unknown: Any = {
        "after": "",
        "after_interval": "",
        "after_recalled": "",
        "change": "",
    }
    return [dataclasses.replace(row, **unknown) for row in rows]


def _with_score(row: Row, now: Mapping[str, float]) -> Row:
    """A row of a group with its accuracy on the way, where it was asked."""
    if not row.main or row.name not in now:
        return row
    return dataclasses.replace(row, after=percent(now[row.name]))


def _now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
