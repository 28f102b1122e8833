# SPDX-License-Identifier: Apache-2.0
"""A run on texts by role: `data.unlearn`, `data.update` and `data.retain` (`config.data`).

Each stage of `config.method` changes what the model knows of some roles.
"""

import dataclasses
from typing import Any, cast

from etils import epath

from jax_surgery.benchmarks import embedded, model_source
from jax_surgery.benchmarks.tasks import GroupText
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import role_texts
from jax_surgery.data.groups import Group, Role
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.methods import descent
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.methods.stages import StageMethod
from jax_surgery.methods.subspace import run as subspace
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics import multiple_choice, text
from jax_surgery.models.model import Model
from jax_surgery.report import cost, examples, page, table
from jax_surgery.runs.questions import load_questions
from jax_surgery.train import curve, devices


class ByRoles:
    """The parts of the run for texts by role; see `runs.surgery`."""

    title = "LLM Surgery"
    intervals = "Wilson"

    def __init__(self, settings: SurgerySettings):
        """Reads and checks all data that needs no tokenizer.

        Raises:
          FileNotFoundError, ValueError: missing or bad data.
        """
        self.settings = settings
        data = settings.data
        self._questions = load_questions(data.questions)
        self._records = role_texts.read(
            data, settings.statistics.sources, settings.readers_of_retained
        )
        self.texts: RoleTexts

    def load(self) -> Model:
        """Loads the model, and tokenises and packs all texts.

        Raises:
          FileNotFoundError, ValueError: see `roles.pack_roles` and `hf_weights`.
        """
        settings = self.settings
        source = model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(source)
        pairs_seed = settings.seed if settings.needs_pairs else None
        self.texts = role_texts.pack(
            self._records, settings.data, tokenizer, pairs_seed
        )
        config = hf_weights.load_config(source)
        moving = settings.moving(config)  # raises before it takes long
        return devices.load_model(source, settings.compute, moving, tokenizer)

    def probe(self, model: Model) -> dict[str, Any]:
        """{"groups": accuracies by group, "roles": how well each role's text is known}."""
        roles = {r: text.known(model, p) for r, p in self.texts.packers.items()}
        return {"groups": self._accuracies(model, self._questions), "roles": roles}

    def _accuracies(
        self, model: Model, questions: tuple[Question, ...]
    ) -> dict[str, Any]:
        if not questions:
            return {}
        probe = Probe("all", self.settings.data.context, questions)
        return multiple_choice.summarise(multiple_choice.answer(model, probe))

    def examples(self, model: Model) -> examples.BeforeAndAfter:
        """Answers to questions, or continuations of the roles' texts."""
        if self._questions:
            return examples.of_questions(model, self._questions)
        documents = {r: p.documents for r, p in self.texts.packers.items()}
        return examples.of_roles(model, documents)

    def change(self, model: Model, before: dict[str, Any], directory: str) -> Model:
        """The model after all stages; the parameters of `model` are donated.

        Raises:
          ValueError: a text to unlearn that the model does not know (subspaces).
          TrainingDiverged, Interrupted: see `loop.train`.
        """
        stages = self.settings.stages
        for number, stage in enumerate(stages):
            folder = directory
            if len(stages) > 1:
                folder = str(epath.Path(directory) / "stages" / f"{number + 1}")
            if stage.direct:
                model = self._by_subspaces(model, stage, folder)
                continue
            chosen = descent.of_stage(self.settings, stage)
            packers = {
                role: packer
                for role, packer in self.texts.packers.items()
                if chosen.data.rows[role]
            }
            texts = dataclasses.replace(self.texts, packers=packers)
            model = descent.descend(
                model, texts, chosen, folder, lambda of: self._hooks(of, directory)
            )
        return model

    def _by_subspaces(self, model: Model, stage: StageMethod, folder: str) -> Model:
        """The model after a stage of the subspace method.

        It also retains what an earlier stage has updated, which the model knows by then.
        """
        [role] = stage.roles
        packers = self.texts.packers
        groups = {"retain": self.texts.retained, "update": packers.get("update")}
        groups[role] = packers[role]
        texts = {
            name: GroupText(
                Group(name, cast(Role, name), ""),
                packer.documents,
                packer.documents,
                (),
            )
            for name, packer in groups.items()
            if packer
        }
        work = Work(model, texts, self.settings.how(stage))
        subspace.check_rank(work)
        done = subspace.run_stages(
            work,
            work.scores(model.params),
            [[role]],
            [set()],
            folder,
            learns=role == "update",
        )
        params = done.at(model.params, self.settings.rounds.alpha or 1.0)
        return model.with_params(params)

    def _hooks(self, model_of: Any, directory: str) -> list[Any]:
        """Asks some of the questions during the run."""
        loop = self.settings.loop
        few = multiple_choice.subsample(self._questions, loop.evaluate_questions)
        every = loop.evaluate_every if few else 0
        ask = lambda state: self._accuracies(model_of(state), few)
        return curve.watch(ask, every, directory)

    def export(self, model: Model, directory: str) -> Model:
        """Writes model/ and gives the model that is scored after the run."""
        hf_weights.save_model(
            model.params,
            model.config,
            str(epath.Path(directory) / "model"),
            tokenizer_source=model.source,
        )
        return model

    def results(self, before: dict, after: dict, model: Model) -> dict[str, Any]:
        """What results.json holds."""
        roles = {
            role: {"before": before["roles"][role], "after": after["roles"][role]}
            for role in self.texts.packers
        }
        return {
            "before": before["groups"],
            "after": after["groups"],
            "roles": roles,
            "cost": self._cost(model),
        }

    def rows(self, results: dict[str, Any]) -> list[table.Row]:
        """Rows of the before/after table."""
        return table.accuracy_rows(results["before"], results["after"])

    def page(self, results: dict[str, Any], directory: str) -> page.Page:
        """The report page without its examples."""
        settings, points = self.settings, curve.read_curve(directory)
        if points:
            last = {g: e["accuracy"] for g, e in results["after"].items()}
            points = [*points, {"step": settings.steps} | last]
        return page.Page(
            title=self.title,
            subtitle=f"model {settings.model}, {settings.steps} steps, "
            f"seed {settings.seed}",
            rows=self.rows(results) + table.role_rows(results["roles"]),
            intervals=self.intervals if results["before"] else "",
            chances=table.chances_of(results["after"]),
            curve=points,
            cost=results["cost"],
            settings=dataclasses.asdict(settings),
        )

    def sentences(self, results: dict[str, Any]) -> list[str]:
        """Sentences that are printed below the table."""
        return [table.cost_text(results["cost"])]

    def _cost(self, model: Model) -> dict[str, Any]:
        """The `cost` of results.json, from what the settings make the run compute.

        Rounds of subspaces, whose number is not known before, are not counted.
        """
        settings, data, steps = self.settings, self.settings.data, self.settings.steps
        trained = reference = 0
        descents = [s for s in settings.stages if not s.direct]
        for stage in descents:
            chosen = descent.of_stage(settings, stage)
            wanted = chosen.data.rows
            read_on = chosen.loss.readings(RoleRows(*(wanted[r] for r in ROLES)))
            trained += sum(wanted.values()) * steps * data.context
            rows = sum(wanted[role] for role in read_on) * steps
            if settings.reference == "cached":
                rows = sum(len(self.texts.packers[role].pack()) for role in read_on)
            reference += rows * data.context
        times = len(descents)  # that statistics are computed
        statistics = 0
        if settings.optimizer.preconditioned:
            assert self.texts.retained, "a preconditioner without it is refused"
            read = descent.statistics_rows(self.texts.retained, settings)
            statistics = times * read * data.context
        counts = cost.Counts(
            model.config,
            data.context,
            trained_tokens=trained,
            reference_tokens=reference,
            statistics_tokens=statistics,
            trainable=settings.trainable(model.config),
            optimizer=settings.optimizer,
            steps=steps * len(descents),
            refreshes=times if statistics else 0,
            rank=settings.lora.rank,
        )
        epochs = settings.baseline_epochs
        if settings.model == "embedded" and not epochs:
            epochs = embedded.EPOCHS
        return cost.compare(counts, self.texts.learned_tokens, epochs)
