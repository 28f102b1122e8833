# SPDX-License-Identifier: Apache-2.0
"""A run on a tasks file: its targets are removed or added, all other tasks retained.

`config.run` is "unlearn" (the targets have the role unlearn) or "learn" (update).
"""

import dataclasses
from typing import Any

import jax
from etils import epath

from jax_surgery.benchmarks import model_source
from jax_surgery.benchmarks import tasks as task_files
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.groups import Group
from jax_surgery.edits import apply, edit_file
from jax_surgery.methods.subspace import adapters, overlap
from jax_surgery.methods.subspace.alpha import choose_alpha
from jax_surgery.methods.subspace.run import Changed, check_rank, run_stages
from jax_surgery.methods.subspace.work import Scores, Work, retained_groups
from jax_surgery.models.model import Model
from jax_surgery.optim.linalg import svd
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes
from jax_surgery.report import examples, page, table, task_results
from jax_surgery.runs.patch import provenance
from jax_surgery.runs.tasks_settings import TasksSettings
from jax_surgery.train import devices

TITLES = {"unlearn": "Tasks removed", "learn": "Tasks added"}
OVERLAP = 0.38  # least mean squared cosine of the angles between similar tasks


def load(settings: TasksSettings) -> Work:
    """Reads and checks all tasks, then loads tokenizer and model.

    Raises:
      FileNotFoundError, ValueError: see `benchmarks.tasks` and `hf_weights`.
    """
    chosen = settings.tasks
    found = task_files.read_tasks(chosen.source)
    targets = [name for stage in chosen.stages for name in stage]
    if not targets:
        raise ValueError(
            f"config.tasks.targets={chosen.targets!r} names no task to remove or add; "
            f"the tasks of {chosen.source} are {', '.join(found)}."
        )
    for name in targets:
        if name not in found:
            raise ValueError(
                f"config.tasks.targets names {name!r}; the tasks of {chosen.source} are "
                f"{', '.join(found)}."
            )
    if twice := sorted({n for n in targets if targets.count(n) > 1}):
        raise ValueError(f"config.tasks.targets names {twice[0]!r} twice.")
    if chosen.similar != "overlap":
        task_files.similar_to(targets, found, chosen.similar)  # raises early
    source, how = model_source(settings.model), settings.how()
    trainable = how.trainable(hf_weights.load_config(source))
    tokenizer = hf_weights.load_tokenizer(source)
    texts = {
        name: task_files.read_text(group, tokenizer, chosen.context)
        for name, group in _with_roles(found, targets, settings).items()
    }
    moving = None if settings.lora.rank else trainable
    model = devices.load_model(source, settings.compute, moving, tokenizer)
    return Work(model, texts, how)


def _with_roles(
    found: dict[str, Group], targets: list[str], settings: TasksSettings
) -> dict[str, Group]:
    """Tasks as groups: what is removed has the role unlearn, what is added update, and
    all others are retained."""
    role = "update" if settings.learns else "unlearn"
    return {
        name: dataclasses.replace(group, role=role) if name in targets else group
        for name, group in found.items()
    }


def export(
    work: Work, settings: TasksSettings, done: Changed, alpha: float, directory: str
) -> Any:
    """Writes the edit and the edited checkpoint; returns the parameters of that."""
    folder, model = epath.Path(directory), work.model
    source = hf_weights.resolve(model.source)
    host = jax.tree.map(meshes.fetch, done.pairs)
    if done.adapter is not None:
        adapter = jax.tree.map(meshes.fetch, done.adapter)
        adapters.save(adapter, work, str(folder / "adapter"))
    if distributed.is_lead():
        factors = edit_file.from_matrices(model.config, host, done.moving.first_layer)
        edit = edit_file.Edit(
            factors,
            alpha,
            edit_file.fingerprint(source, factors),
            provenance(
                run=settings.run,
                stages=done.stages,
                model=model.source,
                settings=dataclasses.asdict(settings),
            ),
        )
        if (folder / "model").exists():  # of this run, stopped after it was written
            (folder / "model").rmtree()
        applied = apply.apply(edit, source, folder / "model")
        edit_file.save_edit(applied.edit, folder / "edit.safetensors")
    distributed.wait("export")
    # In the same dtypes as the model before, so that scores are comparable.
    moving = None if settings.lora.rank else work.trainable
    return devices.load_model(
        str(folder / "model"), settings.compute, moving, model.tokenizer
    ).params


class ByTasks:
    """The parts of the run for a tasks file; see `runs.surgery`."""

    def __init__(self, settings: TasksSettings):
        """Takes the settings; `load` reads the tasks."""
        self.settings = settings
        self._angles: overlap.Angles | None = None
        self.work: Work

    def load(self) -> Model:
        """The model before the run, with the adapter that it goes on from.

        Raises:
          FileNotFoundError, ValueError: see `load`.
        """
        self.work = load(self.settings)
        check_rank(self.work)
        model = self.work.model
        if not self.settings.adapter:
            return model
        factors = adapters.first_factors(self.work)
        return model.with_params(adapters.attached(self.work, factors))

    def probe(self, model: Model) -> Scores:
        """Scores of all tasks."""
        return self.work.scores(model.params)

    def examples(self, model: Model) -> examples.Examples:
        """Answers to the starts of some texts of every task."""
        texts = {name: text.documents for name, text in self.work.texts.items()}
        return examples.of_tasks(model, texts)

    def change(self, model: Model, before: Scores, directory: str) -> "Changes":
        """The change that all stages make; `model` keeps its parameters.

        Raises:
          ValueError: a target to remove that the model does not know.
          TrainingDiverged, Interrupted: see `loop.train`.
        """
        settings, work = self.settings, self.work
        stages, learns = settings.tasks.stages, settings.learns
        retained_groups(before, stages, 0, learns=learns)  # raises before it takes long
        if settings.report.angles:
            self._angles = overlap.measure(work, before, settings.report.angles)
        similar = [self.similar(names) for names in stages]
        done = run_stages(work, before, stages, similar, directory, learns=learns)
        at = lambda alpha: done.at(work.model.params, alpha)
        targets = [name for names in stages for name in names]
        alpha = choose_alpha(done.last, targets, model.params, at)
        standing = task_results.standings(before, {*targets}, done.similar)
        points = task_results.curve(
            work, model.params, standing, settings.report.points, at, learns=learns
        )
        return Changes(done, alpha, standing, points)

    def similar(self, targets: list[str]) -> set[str]:
        """Tasks that are similar to some targets."""
        chosen = self.settings.tasks.similar
        if chosen == "overlap":
            assert self._angles, "similar='overlap' needs report.angles"
            return self._angles.similar_to(targets, OVERLAP)
        tasks = {name: text.group for name, text in self.work.texts.items()}
        return task_files.similar_to(targets, tasks, chosen)

    def export(self, changes: "Changes", directory: str) -> Model:
        """Writes edit.safetensors and model/, and gives that model."""
        params = export(
            self.work, self.settings, changes.done, changes.alpha, directory
        )
        return self.work.model.with_params(params)

    def results(
        self, before: Scores, after: Scores, changes: "Changes"
    ) -> dict[str, Any]:
        """What results.json holds."""
        done, params = changes.done, self.work.model.params
        self._spectra = {
            name: meshes.fetch(svd.singular_values(matrix))
            for name, matrix in done.change.items()
        }
        return {
            "run": self.settings.run,
            "tasks": task_results.of_tasks(
                before, after, changes.standing, learns=self.settings.learns
            ),
            "alpha": changes.alpha,
            "curve": changes.curve,
            "overlaps": self._angles.as_results() if self._angles else {},
            "seconds": done.seconds,
            "change_norm": done.relative_norm(params, changes.alpha),
        }

    def page(self, results: dict[str, Any], directory: str) -> page.Page:
        """The report page without its examples."""
        del directory
        settings = self.settings
        families = {name: t.group.family for name, t in self.work.texts.items()}
        return page.Page(
            title=f"{TITLES[settings.run]}: {self._targets}",
            subtitle=f"model {settings.model}, alpha {results['alpha']:g}, the moving "
            f"matrices changed by {results['change_norm']:.1%}, seed {settings.seed}",
            rows=table.task_rows(results["tasks"]),
            intervals="Wilson, bootstrap",
            settings=dataclasses.asdict(settings),
            figures=task_results.figures(
                results, self._angles, families, self._spectra, learns=settings.learns
            ),
        )

    def sentences(self, results: dict[str, Any]) -> list[str]:
        """Sentences that are printed below the table."""
        return [f"{sum(results['seconds']):.1f} s for {self._targets}"]

    @property
    def _targets(self) -> str:
        return " then ".join(", ".join(n) for n in self.settings.tasks.stages)


@dataclasses.dataclass(frozen=True, eq=False)
class Changes:
    """What the stages gave, how much of it is taken, and scores along the way."""

    done: Changed
    alpha: float
    standing: dict[str, str]
    curve: list[dict[str, Any]]
