# SPDX-License-Identifier: Apache-2.0
"""A run on a tasks file: its targets are removed or added, all other tasks retained.

`config.run` is "unlearn" (the targets have the role unlearn) or "learn" (update).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from etils import epath

from jax_surgery import attacks
from jax_surgery.benchmarks import model_source
from jax_surgery.benchmarks import tasks as task_files
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.edits import apply, edit_file
from jax_surgery.methods.subspace import adapters, measured, overlap
from jax_surgery.methods.subspace.run import Changed, check_rank, run_stages
from jax_surgery.methods.subspace.settings import TasksSettings
from jax_surgery.methods.subspace.work import Scores, Work, retained_groups
from jax_surgery.models.model import Model
from jax_surgery.optim.linalg import svd
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes
from jax_surgery.report import examples, live, one_by_one, page, table, task_results
from jax_surgery.report import free_form as evidence
from jax_surgery.report.live import Live
from jax_surgery.runs import asked, own_attacks
from jax_surgery.runs.free_form import FreeForm, prompts_a_group, speaks
from jax_surgery.runs.patch import print_left_out, provenance
from jax_surgery.storage import files
from jax_surgery.train import devices, identity

TITLES = {"unlearn": "Tasks removed", "learn": "Tasks added"}
OVERLAP = 0.38  # least mean squared cosine of the angles between similar tasks


class Probed(NamedTuple):
    """What a model knows.

    Attributes:
      scores: of all tasks.
      replies: what it says by itself; None where it is not asked.
      lines: what was scored, one by one.
    """

    scores: Scores
    replies: Any
    lines: asked.Lines


class ByTasks:
    """The parts of the run for a tasks file; see `runs.surgery`."""

    def __init__(self, settings: TasksSettings):
        """Takes the settings; `load` reads the tasks."""
        self.settings = settings
        self._attacks = attacks.parse_all(settings.attacks, "config.attacks")
        self.targets = [name for names in settings.tasks.stages for name in names]
        self.work: Work
        # What stages work on: `work`, with what the model wrote where it is to.
        self._of_stages: Work
        self._measured: measured.Measured | None = None
        self._free_form: FreeForm | None = None
        self._angles: overlap.Angles | None = None
        self._curve: list[dict[str, Any]] = []
        self.watched: Live | None = None  # the page while the run goes on

    def load(self) -> Model:
        """Reads and checks all tasks, then loads tokenizer and model.

        Raises:
          FileNotFoundError, ValueError: see `benchmarks.tasks`, `hf_weights` and
            `adapters.first_factors`.
        """
        settings, context = self.settings, self.settings.tasks.context
        groups = self._groups()
        source = model_source(settings.model)
        moving = settings.trainable(hf_weights.load_config(source))
        tokenizer = hf_weights.load_tokenizer(source)
        texts = {
            name: task_files.read_text(group, tokenizer, context, settings.tasks.chat)
            for name, group in groups.items()
        }
        task_files.check_overlap(texts, tokenizer)
        model = devices.load_model(
            source, settings.compute, self._changes(moving), tokenizer, context
        )
        self.work = self._of_stages = Work(model, texts, settings)
        check_rank(self.work)
        if not settings.adapter:
            return model
        factors = adapters.first_factors(self.work)
        return model.with_params(adapters.attached(self.work, factors))

    def _groups(self) -> dict[str, Group]:
        """Tasks as groups: what is removed has the role unlearn, what is added update,
        and all others are retained."""
        chosen, targets = self.settings.tasks, self.targets
        found = task_files.read_tasks(chosen.source)
        if not targets:
            raise ValueError(
                f"config.tasks.targets={chosen.targets!r} names no task to remove or "
                f"add; the tasks of {chosen.source} are {', '.join(found)}."
            )
        for name in targets:
            if name not in found:
                raise ValueError(
                    f"config.tasks.targets names {name!r}; the tasks of {chosen.source} "
                    f"are {', '.join(found)}."
                )
        if twice := sorted({n for n in targets if targets.count(n) > 1}):
            raise ValueError(f"config.tasks.targets names {twice[0]!r} twice.")
        if chosen.similar != "overlap":
            task_files.similar_to(targets, found, chosen.similar)  # raises early
        role = "update" if self.settings.learns else "unlearn"
        return {
            name: dataclasses.replace(group, role=role) if name in targets else group
            for name, group in found.items()
        }

    def _changes(self, trainable: Any) -> Any:
        """The parameters that the run changes; an adapter leaves the model as it is."""
        return None if self.settings.lora.rank else trainable

    def prepare(self, model: Model, directory: str) -> None:
        """Lets a chat model write what it retains beside the tasks, and measures which
        tokens of the targets carry knowledge, where they are removed.

        Raises:
          ValueError: see `measured.measure`.
        """
        settings, complete = self.settings, self.settings.tasks.complete
        wanted = complete == "always" or (
            complete == "auto" and speaks(model.tokenizer)
        )
        if not wanted or settings.learns or settings.lora.rank:
            return
        self._measured = measured.measure(self.work, self.targets, directory)
        self._of_stages = self._measured.work

    def identity(self, model: Model) -> dict[str, str]:
        """The hashes of all that the run reads, by field (see `train.identity`).

        The factors of an adapter lie among the model's parameters.
        """
        found = {
            f"the task {name!r} of config.tasks.source": identity.of_probes(
                [text.probe], text.documents
            )
            for name, text in self.work.texts.items()
        }
        adapted = " with config.adapter" if self.settings.adapter else ""
        return found | {f"config.model{adapted}": identity.of_model(model)}

    def probe(self, model: Model) -> Probed:
        """Scores of all tasks, and what the model says by itself."""
        found = self.work.scored(model.params)
        scores = {name: whole for name, (whole, _) in found.items()}
        lines: asked.Lines = []
        for name, (_, values) in found.items():
            [metric] = self.work.texts[name].probe.metrics
            lines += asked.lines_of(metric, values, name) if values else []
        free_form = self._asks(model)
        return Probed(scores, free_form.observe(model) if free_form else None, lines)

    def _asks(self, model: Model) -> FreeForm | None:
        """What the model is asked to say by itself, the same before and after."""
        settings, texts = self.settings, self.work.texts.values()
        most = prompts_a_group(settings.free_form, model.tokenizer)
        if not most or self._free_form:
            return self._free_form
        by_role: dict[str, list[Record]] = {}
        for text in texts:
            by_role.setdefault(text.group.role, []).extend(text.records)
        held = self._measured.held_out if self._measured else {}
        self._free_form = FreeForm(
            model,
            by_role,
            [question for text in texts for question in text.probe.questions],
            most=most,
            chat=settings.tasks.chat,
            seed=settings.seed,
            own={k: rows for k, rows in held.items() if rows[0].question},
            texts={k: rows for k, rows in held.items() if not rows[0].question},
        )
        return self._free_form

    def attack(self, model: Model) -> dict[str, Any]:
        """What attacks say of the finished model; {} where none is to be tried, or tasks
        were added.

        The targets are asked as they are scored; of a model that is asked in its own words
        they are asked with alternatives, so that chance is known.
        """
        if self.settings.learns:
            return {}
        texts = [self.work.texts[name] for name in self.targets]
        records = [record for text in texts for record in text.records]
        context, chat = self.settings.tasks.context, self.settings.tasks.chat
        of = (self._attacks, records, self.settings.seed)
        removed = self._free_form.removed if self._free_form else ()
        found = own_attacks.prepared(
            own_attacks.of_choices(removed), *of, Probe("", context, chat=chat)
        ) or own_attacks.of_probes([text.probe for text in texts], *of)
        return found.mount(model) if found else {}

    def examples(self, model: Model) -> examples.Examples | None:
        """Answers to the starts of some texts of every task; None where the model says
        what it knows by itself."""
        if self._free_form:
            return None
        texts = {name: text.documents for name, text in self.work.texts.items()}
        return examples.of_texts(model, texts, 2, self.settings.seed)

    def change(self, model: Model, before: Probed, directory: str) -> Changed:
        """The change that all stages make; `model` keeps its parameters.

        Raises:
          ValueError: a target to remove that the model does not know.
          TrainingDiverged, Interrupted: see `loop.train`.
        """
        settings, work, params = self.settings, self.work, self.work.model.params
        stages = settings.tasks.stages
        # Raises before it takes long.
        scores, known = before.scores, self.targets if self._measured else ()
        retained_groups(scores, stages, 0, learns=settings.learns, measured=known)
        full = settings.report == "full"
        if full or settings.tasks.similar == "overlap":
            self._angles = overlap.measure(work, scores)
        near = {measured.NEIGHBOURS} if self._measured else set()
        similar = [self.similar(names) | near for names in stages]
        between = self.watched.between_rounds() if self.watched else []
        done = run_stages(self._of_stages, scores, similar, directory, between)
        if full:
            self._curve = task_results.curve(
                work,
                model.params,
                task_results.standings(scores, self.targets, done.similar),
                lambda alpha: done.at(params, alpha),
            )
        return done

    def similar(self, targets: list[str]) -> set[str]:
        """Tasks that are similar to some targets."""
        if self._angles and self.settings.tasks.similar == "overlap":
            return self._angles.similar_to(targets, OVERLAP)
        tasks = {name: text.group for name, text in self.work.texts.items()}
        return task_files.similar_to(targets, tasks, self.settings.tasks.similar)

    def export(self, done: Changed, directory: str) -> Model:
        """Writes edit.safetensors and model/, and gives that model."""
        folder, model = epath.Path(directory), self.work.model
        source = hf_weights.resolve(model.source)
        host = jax.tree.map(meshes.fetch, done.pairs)
        if done.adapter is not None:
            adapter = jax.tree.map(meshes.fetch, done.adapter)
            adapters.save(adapter, self.work, str(folder / "adapter"))
        if distributed.is_lead():
            factors = edit_file.from_matrices(
                model.config, host, done.moving.first_layer
            )
            base = edit_file.fingerprint(source, factors)
            made = provenance(
                run=self.settings.run,
                stages=done.stages,
                model=model.source,
                settings=dataclasses.asdict(self.settings),
            )
            files.remove(folder / "model")  # of this run, stopped after it was written
            edit = edit_file.Edit(factors, done.alpha, base, made)
            applied = apply.apply(edit, source, folder / "model")
            print_left_out(applied.left_out)
            edit_file.save_edit(applied.edit, folder / "edit.safetensors")
        distributed.wait("export")
        # In the same dtypes as the model before, so that scores are comparable.
        return devices.load_model(
            str(folder / "model"),
            self.settings.compute,
            self._changes(self.work.trainable),
            model.tokenizer,
        )

    @property
    def budget(self) -> float:
        """Stages end at their goals, and have no budget."""
        return 0.0

    def begun(self, before: Probed) -> page.Page:
        """The report page of what is known before the run changes the model."""
        scores, learns = before.scores, self.settings.learns
        standing = task_results.standings(scores, self.targets, set())
        tasks = task_results.of_tasks(scores, scores, standing, learns=learns)
        return page.Page(
            title=self._title,
            subtitle=f"model {self.settings.model}, seed {self.settings.seed}",
            rows=live.begun(table.task_rows(tasks)),
            settings=dataclasses.asdict(self.settings),
        )

    @property
    def _title(self) -> str:
        return f"{TITLES[self.settings.run]}: {self._targets}"

    @property
    def _targets(self) -> str:
        return " then ".join(", ".join(names) for names in self.settings.tasks.stages)

    def report(
        self, before: Probed, after: Probed, done: Changed, directory: str
    ) -> tuple[dict[str, Any], page.Page]:
        """What results.json holds, and the report page without its examples."""
        one_by_one.write(directory, before.lines, after.lines)
        settings, work = self.settings, self.work
        standing = task_results.standings(before.scores, self.targets, done.similar)
        results = {
            "run": settings.run,
            "tasks": task_results.of_tasks(
                before.scores, after.scores, standing, learns=settings.learns
            ),
            "alpha": done.alpha,
            "curve": self._curve,
            "overlaps": self._angles.as_results() if self._angles else {},
            "seconds": done.seconds,
            "change_norm": done.relative_norm(work.model.params),
        }
        spoken: dict[str, Any] = {}
        if asks := self._free_form:
            replies = (before.replies, after.replies)
            spoken = evidence.results(asks.asked, asks.choices, *replies)
            results["free_form"] = spoken
        if self._measured:
            results["automatic"] = self._measured.found
        families = {name: text.group.family for name, text in work.texts.items()}
        spectra = {
            name: meshes.fetch(svd.singular_values(matrix))
            for name, matrix in done.change.items()
        }
        shown = page.Page(
            title=self._title,
            subtitle=f"model {settings.model}, alpha {done.alpha:g}, the moving "
            f"matrices changed by {results['change_norm']:.1%}, seed {settings.seed}",
            rows=[
                *(evidence.rows(spoken) if spoken else ()),
                *table.task_rows(results["tasks"]),
            ],
            intervals="Wilson, bootstrap",
            settings=dataclasses.asdict(settings),
            figures=task_results.figures(
                results, self._angles, families, spectra, done.moving.first_layer
            ),
            sentences=[f"{sum(done.seconds):.1f} s for {self._targets}"],
        )
        if self._measured:
            shown["knowledge"] = self._measured.marked
        return results, evidence.with_replies(shown, spoken) if spoken else shown
