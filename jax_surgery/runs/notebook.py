# SPDX-License-Identifier: Apache-2.0
"""What notebooks call: runs in this process that are watched as they go, their pictures,
and models to chat with.

    results = notebook.run(config, "runs/mine")
    notebook.report("runs/mine")

A config is what `get_config()` of a file in configs/ returns. Needs the extra `colab`.
"""

import contextlib
import dataclasses
import html
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from jax_surgery.attacks.verdict import REMOVED, SUPPRESSED, THERE
from jax_surgery.benchmarks import model_source
from jax_surgery.benchmarks.tasks import read_tasks
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import build
from jax_surgery.models.compute import DEFAULT_COMPUTE
from jax_surgery.parallel import host_memory
from jax_surgery.report import attack as attack_report
from jax_surgery.report import attack_pictures, pictures, subspace_pictures
from jax_surgery.runs import start
from jax_surgery.runs.ask import Ask
from jax_surgery.runs.settings import from_config, settings_class
from jax_surgery.train import curve, workdir
from jax_surgery.train.metrics_file import METRICS_FILE, read_metrics

GIB = 2**30
TOKENS = 48  # of an answer in a chat, at most
# Tables that runs print are wider than some pages.
WIDE = "<style>pre { white-space: pre !important; overflow-x: auto }</style>"
EVERY = 3.0  # seconds between two looks at what a run has written
MEANINGS = {
    REMOVED: "None of the attacks that were tried brings it back. Others may.",
    SUPPRESSED: "The model no longer says it, and an attack brings it back: the knowledge "
    "is hidden, and not gone. Do not call such a model safe to publish.",
    THERE: "The model says it without any attack: this run did not forget it.",
}


def accelerator() -> str:
    """What computes here, as a sentence, such as "1 x Tesla T4 (gpu), ..."."""
    devices, platform = jax.local_devices(), jax.default_backend()
    kind = f"{len(devices)} x {devices[0].device_kind}"
    return f"{kind} ({platform}), {free_memory() / GIB:.1f} GiB of free memory each"


def free_memory() -> int:
    """Bytes that are free on each device; on CPU the devices share the host's."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return host_memory.available() // len(devices)


def fitting(config: Any, smaller: Any, free: int = 0) -> Any:
    """The config where its step fits into the memory that is here, else the smaller one;
    prints the line that says why.

    Args:
      config, smaller: of surgeries on the same model.
      free: bytes per device; 0 measures them.

    Raises:
      ValueError: neither fits.
    """
    from jax_surgery.plan import here

    free, needs = free or free_memory(), []
    for number, one in enumerate((config, smaller)):
        settings = from_config(one)
        architecture = hf_weights.load_config(model_source(settings.model))
        needs.append(here.step_bytes(settings, architecture) / GIB)
        if needs[-1] <= free / GIB:
            way = "low-rank deltas" if number else "the weights themselves move"
            print(
                f"{way}: a step needs {needs[-1]:.1f} GiB of the {free / GIB:.1f} GiB "
                "that are free per device"
                + (f" (all weights would need {needs[0]:.1f})" if number else "")
            )
            return one
    raise ValueError(
        f"A step on config.model={config.model!r} needs {needs[0]:.1f} GiB per device, "
        f"with low-rank deltas {needs[1]:.1f}, and {free / GIB:.1f} GiB are free. Take a "
        "smaller model or an accelerator with more memory, or restart the session."
    )


def run(config: Any, directory: str, *, watch: bool = True) -> dict[str, Any]:
    """Does the run of a config in this process, and draws its curves while it goes on.

    A run that was stopped goes on when it is called again with the same directory, and of
    one that is finished the results are read.

    Args:
      config: a ConfigDict, as `get_config()` of a file in configs/ returns it.
      directory: where it writes, local or gs://.
      watch: whether curves are drawn.

    Returns:
      What results.json of the directory holds; {} of a run that writes none.

    Raises:
      Interrupted, TrainingDiverged, ValueError, FileNotFoundError, StorageError: see
        `start.start`.
    """
    folder = epath.Path(directory)
    if _is_finished(config, folder):
        print(f"{folder} holds this run, which is finished: its results are read")
    else:
        again = lambda place: f"the same call again, with the directory {place}"
        with _Watched(folder) if watch else contextlib.nullcontext():
            start.start(config, directory, again=again)
    file = folder / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _is_finished(config: Any, folder: epath.Path) -> bool:
    """Whether a directory holds this very run, finished."""
    if not (folder / workdir.FINISHED_FILE).exists():
        return False
    there = json.loads((folder / workdir.CONFIG_FILE).read_text())
    return build(settings_class(there["run"]), there) == from_config(config)


class _Watched(contextlib.AbstractContextManager):
    """Draws what a run writes, below the cell that called it, as long as it goes on.

    In a thread of its own, which reads the files: the run knows nothing of it.
    """

    def __init__(self, folder: epath.Path):
        self._folder, self._seen = folder, (0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        from IPython import display

        self._handle: Any = display.display(_html(WIDE), display_id=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()
        self._draw()

    def _look(self) -> None:
        while not self._ended.wait(EVERY):
            # A file may be read while it is replaced; the next look finds it.
            with contextlib.suppress(OSError):
                self._draw()

    def _draw(self) -> None:
        asked = curve.read_curve(str(self._folder))
        losses = read_metrics(self._folder / METRICS_FILE)
        if (seen := (len(asked), len(losses))) == self._seen:
            return
        self._seen = seen
        if self._handle is None:  # IPython shows nothing outside a notebook
            return
        drawn = [pictures.accuracy_curves(asked, {}), pictures.loss_curves(losses)]
        self._handle.update(_framed(*drawn))


def _html(text: str) -> Any:
    """What a notebook shows; the package runs without IPython."""
    from IPython.display import HTML

    return HTML(text)


def _framed(*parts: str) -> Any:
    """SVG or HTML below each other, as wide as a page."""
    return _html(f'<div style="max-width:46rem">{WIDE}{"".join(parts)}</div>')


def report(directory: str, height: int = 640) -> Any:
    """A finished run's report page, in a frame of so many pixels."""
    page = (epath.Path(directory) / "report" / "index.html").read_text()
    style = f"width:100%;height:{height}px;border:1px solid #ccc"
    return _html(
        f'<div><iframe srcdoc="{html.escape(page)}" style="{style}"></iframe></div>'
    )


def verdict(results: Mapping[str, Any]) -> Any:
    """What attacks say of a model, what that means, and their pictures.

    Args:
      results: of `run`, of a run with attacks.
    """
    found = results["verdict"]
    drawn = [figure["svg"] for figure in attack_pictures.figures(results["attacks"])]
    said = html.escape(attack_report.sentence(found))
    if not found:
        return _framed("<p>Nothing that was to go can be asked.</p>", *drawn)
    meaning = MEANINGS[found["verdict"]]
    return _framed(f"<p><b>{said}</b></p><p>{meaning}</p>", *drawn)


def angles(results: Mapping[str, Any], source: str = "suite") -> Any:
    """How much the tasks of a run overlap, as a map.

    Args:
      results: of `run`, of an "unlearn" or "learn" with `report = "full"`.
      source: `config.tasks.source`, which names the tasks' families.
    """
    found = results["overlaps"]
    families = {name: group.family for name, group in read_tasks(source).items()}
    squares = np.asarray(found["mean_squared_cosine"])
    return _framed(subspace_pictures.angle_matrix(found["tasks"], squares, families))


def along_alpha(results: Mapping[str, Any]) -> Any:
    """What a run's targets and its retained tasks score along alpha."""
    roles = {name: task["role"] for name, task in results["tasks"].items()}
    drawn = subspace_pictures.alpha_curves(
        results["curve"],
        [name for name, role in roles.items() if role == "target"],
        [name for name, role in roles.items() if role == "similar"],
        learns=results["run"] == "learn",
        used=results["alpha"],
    )
    return _framed(drawn)


def side_by_side(runs: Mapping[str, Mapping[str, Any]]) -> Any:
    """What each of some runs on tasks leaves of every task, as bars.

    Args:
      runs: results of `run` by what names them; all of the same tasks.
    """
    scores = {
        label: {
            name: (task["before"]["value"], task["after"]["value"])
            for name, task in results["tasks"].items()
            if task["role"] != "unknown"
        }
        for label, results in runs.items()
    }
    return _framed(subspace_pictures.score_bars(scores))


class Chat:
    """Models that are asked the same, such as the one before a run and the one after it.

    Every question stands for itself: a model sees no earlier ones. A model without a chat
    template of its own goes on with the text.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        dtype: Literal["float32", "bfloat16"] = "float32",
    ):
        """Loads the models.

        Args:
          models: by what names them: finished runs' directories, directories in Hugging
            Face format, or hub names.
          dtype: in which they are held and run.

        Raises:
          FileNotFoundError, ValueError: see `devices.load`.
        """
        compute = dataclasses.replace(DEFAULT_COMPUTE, dtype=dtype)
        self._asks = {name: Ask(source, compute) for name, source in models.items()}

    def ask(self, question: str, tokens: int = TOKENS) -> dict[str, str]:
        """The models' most likely answers, of at most so many tokens."""
        return {name: ask(question, tokens) for name, ask in self._asks.items()}

    def table(self, questions: Iterable[str], tokens: int = TOKENS) -> Any:
        """The answers to some questions, beside each other."""
        rows = [[q, *self.ask(q, tokens).values()] for q in questions]
        return _table(["question", *self._asks], rows)

    def widget(self, tokens: int = TOKENS) -> Any:
        """A field to type questions into, and the answers below it; where no page shows
        it, `ask` does the same."""
        import ipywidgets

        field = ipywidgets.Text(
            placeholder="Type a question and press Enter", continuous_update=False
        )
        shown, rows = ipywidgets.HTML(), []

        def answer(change: Mapping[str, Any]) -> None:
            if not (question := change["new"].strip()):
                return
            field.disabled, field.value = True, ""
            rows.insert(0, [question, *self.ask(question, tokens).values()])
            shown.value = _table(["question", *self._asks], rows).data
            field.disabled = False

        field.observe(answer, "value")
        return ipywidgets.VBox([field, shown])

    def close(self) -> None:
        """Gives back the models' memory."""
        self._asks.clear()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Texts as a table."""
    cell: Callable[[str, str], str] = lambda kind, text: (
        f'<{kind} style="text-align:left;vertical-align:top;padding:.3rem .8rem">'
        f"{html.escape(text)}</{kind}>"
    )
    lines = ["".join(cell("th", text) for text in head)]
    lines += ["".join(cell("td", text) for text in row) for row in rows]
    return _framed(
        "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    )
