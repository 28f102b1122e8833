# SPDX-License-Identifier: Apache-2.0
"""Changes what a model knows, and shows it: the run of surgery, unlearn, learn and tofu.

    groups of text, model -> probes before -> method -> export, edit file
                          -> probes after -> report

Groups are written down by role (`runs.by_roles`: the run "surgery"), as a tasks file
(`runs.by_tasks`: "unlearn" and "learn") or by TOFU (`runs.tofu`), which are the cases of
this run.
"""

from typing import Any, Protocol

from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.model import Model
from jax_surgery.report import page, writer
from jax_surgery.report.examples import BeforeAndAfter
from jax_surgery.runs import tofu
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.by_tasks import ByTasks
from jax_surgery.runs.tasks_settings import TasksSettings
from jax_surgery.train import devices


class Case(Protocol):
    """The parts of the run that differ by how groups are written down."""

    @property
    def settings(self) -> SurgerySettings | TasksSettings:
        """The settings of the run."""

    def load(self) -> Model:
        """Reads and checks all groups, then loads the model."""

    def probe(self, model: Model, /) -> Any:
        """Measures what a model knows of the groups."""

    def examples(self, model: Model, /) -> BeforeAndAfter:
        """Answers before the run, to be set beside those after."""

    def change(self, model: Model, before: Any, directory: str, /) -> Any:
        """The result of the methods; they donate the parameters of `model`."""

    def export(self, changed: Any, directory: str, /) -> Model:
        """Writes the model, and an edit file where there is one; returns that model."""

    def results(self, before: Any, after: Any, changed: Any, /) -> dict[str, Any]:
        """What results.json holds."""

    def page(self, results: dict[str, Any], directory: str, /) -> page.Page:
        """The report page without its examples."""

    def sentences(self, results: dict[str, Any], /) -> list[str]:
        """Sentences that are printed below the table."""


def run(
    settings: SurgerySettings | TasksSettings | tofu.TofuSettings, directory: str
) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: bad data or settings, before any model is loaded.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    case = case_of(settings, directory)
    with devices.on_mesh(case.settings.mesh):
        return run_case(case, directory)


def case_of(settings: Any, directory: str) -> Case:
    """The case of some settings; TOFU's model is fitted first."""
    if isinstance(settings, tofu.TofuSettings):
        return tofu.prepare(settings, directory)
    if isinstance(settings, TasksSettings):
        return ByTasks(settings)
    return ByRoles(settings)


def run_case(case: Case, directory: str) -> dict[str, Any]:
    """The steps of every run; see `run`."""
    model = case.load()
    before = case.probe(model)
    examples = case.examples(model)

    changed = case.change(model, before, directory)
    del model  # its parameters may be given up
    edited = case.export(changed, directory)

    after = case.probe(edited)
    results = case.results(before, after, changed)
    shown = case.page(results, directory) | {"examples": examples.after(edited)}
    writer.write(directory, results, shown, case.sentences(results))
    return results
