# SPDX-License-Identifier: Apache-2.0
"""A run on texts by role: `data.unlearn`, `data.update` and `data.retain` (`config.data`),
or those of `config.benchmark`.

Each stage of `config.method` changes what the model knows of some roles.
"""

import dataclasses
from typing import Any, cast

from etils import epath

from jax_surgery import attacks, benchmarks
from jax_surgery.benchmarks import embedded, tasks
from jax_surgery.checkpoints import export_dtype, hf_weights
from jax_surgery.data import role_texts, roles
from jax_surgery.data.asked import Kind
from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Group, Role
from jax_surgery.data.probes import Probe
from jax_surgery.methods import descent
from jax_surgery.methods.automatic import completed, controller, described
from jax_surgery.methods.automatic import run as automatic
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.methods.stages import Stage
from jax_surgery.methods.subspace import run as subspace
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics import text
from jax_surgery.models.model import Model
from jax_surgery.report import budget, cost, examples, live, one_by_one, page, table
from jax_surgery.report import free_form as evidence
from jax_surgery.report.live import Live
from jax_surgery.runs import asked, own_attacks, reference_model, role_parts
from jax_surgery.runs.free_form import FreeForm, prompts_a_group
from jax_surgery.runs.on_the_way import OnTheWay
from jax_surgery.train import curve, devices, identity


class ByRoles:
    """The parts of the run for texts by role; see `runs.surgery`."""

    def __init__(self, settings: SurgerySettings):
        """Reads and checks all data that needs no tokenizer.

        Raises:
          FileNotFoundError, ValueError: missing or bad data.
        """
        self._groups: tuple[Group, ...] = ()
        self._probes: list[Probe] = []
        self._attacks = attacks.parse_all(settings.attacks, "config.attacks")
        if settings.benchmark:
            benchmark = benchmarks.parse(settings.benchmark)
            self._groups = benchmark.groups()
            probes = benchmark.probes(settings.data.context)
            self._probes = asked.with_metrics(probes, "", settings.data.chat)
        data = role_parts.with_groups(settings.data.located, self._groups)
        self.settings = dataclasses.replace(settings, data=data)
        self._questions = asked.load_questions(data.questions)
        self.group_roles = asked.roles_of(
            data.questions, self._questions, self._groups, self._probes
        )
        self._first: asked.Observed | None = None  # of the model before the change
        self._records = roles.read(
            data, settings.statistics.sources, settings.readers_of_retained
        )
        self._on_the_way = OnTheWay(self.settings, self._questions, self.group_roles)
        self.texts: role_texts.RoleTexts
        self._frozen: Model | None = None  # the reference, where it is another model
        # What the run leaves alone, to be asked before and after: questions and answers by
        # group, those that the model itself answered, and texts by name.
        self.held_out: dict[str, list[tuple[str, str]]] = {}
        self.held_out_own: dict[str, list[Record]] = {}
        self.held_out_texts: dict[str, list[Record]] = {}
        self.reworded: dict[Kind, list[Record]] = {}
        self._free_form: FreeForm | None = None
        # Of a run that keeps to a budget: what it begins with, and how it ended.
        self._begun: automatic.Begun | None = None
        self._outcome: automatic.Outcome | None = None
        self.watched: Live | None = None  # the page while the run goes on

    def load(self) -> Model:
        """Loads the model, and tokenises and packs all texts.

        Raises:
          FileNotFoundError, ValueError: see `role_texts.pack` and `hf_weights`.
        """
        settings = self.settings
        source = benchmarks.model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(source)
        chat = settings.data.chat
        asked.check_chat(tokenizer, chat, self._questions, self._probes)
        self._pack(tokenizer)
        config = hf_weights.load_config(source)
        moving = settings.moving(config)  # raises before it takes long
        context = settings.data.context
        self._frozen = reference_model.load(settings, config, tokenizer)
        return devices.load_model(source, settings.compute, moving, tokenizer, context)

    def _pack(self, tokenizer: Any) -> None:
        settings = self.settings
        of = (settings.data, tokenizer, settings.pairs, settings.seed)
        self.texts = role_texts.pack(self._records, *of)

    def identity(self, model: Model) -> dict[str, str]:
        """The hashes of all that the run reads, by field (see `train.identity`)."""
        texts = self.texts
        found = {f"config.data.{role}": p.digest for role, p in texts.packers.items()}
        if texts.retained:
            given = self.settings.statistics.sources
            field = "config.statistics.sources" if given else "config.data.retain"
            found.setdefault(field, texts.retained.digest)
        if self._questions:
            found["config.data.questions"] = identity.of_records(self._questions)
        if self._probes:
            found["config.benchmark"] = identity.of_probes(self._probes)
        if self._frozen:
            found["config.reference_model"] = identity.of_model(self._frozen)
        return found | {"config.model": identity.of_model(model)}

    def prepare(self, model: Model, directory: str) -> None:
        """Lets the model write what it is to learn or to retain beside the user's text, and
        measures what it knows, where the run keeps to a budget.

        Raises:
          ValueError: see `described.enrich` and `automatic.begin`.
        """
        if counts := self.settings.data.enriched:
            how = (counts, self.settings.seed, directory)
            self._records = described.enrich(model, self._records, *how)
            self._pack(model.tokenizer)
        if not self.settings.retain.budget:
            return
        begun = automatic.begin(model, self._records, self.settings, directory)
        self._begun = begun
        self.reworded = begun.written.asked()
        for kind, records in begun.held_out.items():
            pairs = [(r.question, r.answer) for r in records if r.question]
            if kind in completed.ANSWERED:
                self.held_out_own[kind] = records
            elif pairs:
                self.held_out[kind] = pairs
            else:
                self.held_out_texts[kind] = records

    def probe(self, model: Model) -> dict[str, Any]:
        """{"groups": accuracies by group, "metrics": what is measured of the benchmark,
        "lines": what was scored, one by one (`asked.Lines`), "roles": how well each role's
        text is known, "free_form": what the model says by itself, None where that is not
        asked}."""
        data = self.settings.data
        free_form = self._asks(model)
        reads = lambda probe: [*asked.metrics_of(probe), *asked.comparisons_of(probe)]
        observed = asked.observe(model, self._probes, reads)
        self._first = self._first or observed
        of = (model, self._questions, data.context, data.chat)
        groups, answers = asked.answered(*of)
        return {
            "groups": groups,
            "metrics": asked.estimated(self._probes, observed, self._first),
            "lines": [*answers, *asked.each(self._probes, observed)],
            "roles": {r: text.known(model, p) for r, p in self.texts.packers.items()},
            "free_form": free_form.observe(model) if free_form else None,
        }

    def _asks(self, model: Model) -> FreeForm | None:
        """What the model is asked to say by itself, the same before and after."""
        settings = self.settings
        most = prompts_a_group(settings.free_form, model.tokenizer)
        if most and not self._free_form:
            self._free_form = FreeForm(
                model,
                self._records.by_role,
                self._questions,
                most=most,
                chat=settings.data.chat,
                seed=settings.seed,
                held_out=self.held_out,
                own=self.held_out_own,
                texts=self.held_out_texts,
                reworded=self.reworded,
            )
        return self._free_form

    def attack(self, model: Model) -> dict[str, Any]:
        """What attacks say of the finished model; {} where none is to be tried, or nothing
        can be asked about what was to go."""
        data = self.settings.data
        questions = own_attacks.of_questions(data.questions, self._questions)
        if not questions and self._free_form:
            questions = own_attacks.of_choices(self._free_form.removed)
        found = own_attacks.prepared(
            questions,
            self._attacks,
            self._records.by_role.get("unlearn", []),
            self.settings.seed,
            Probe("", data.context, chat=data.chat),
        )
        return found.mount(model) if found else {}

    def examples(self, model: Model) -> examples.Examples | None:
        """Answers to questions, or continuations of the texts that are asked; None where
        the model says what it knows by itself."""
        if self._free_form:
            return None
        seed, chat = self.settings.seed, self.settings.data.chat
        if self._questions:
            return examples.of_questions(model, self._questions, seed, chat)
        texts = {
            probe.group: probe.encoded(model.tokenizer).documents
            for probe in self._probes
            if not probe.questions
        }
        packers = self.texts.packers.items()
        # Of a text and its alternative the text alone.
        own = {role: packer.documents[:: packer.group] for role, packer in packers}
        return examples.of_texts(model, texts or own, seed=seed)

    def change(self, model: Model, before: Any, directory: str) -> Model:
        """The model after all stages; the parameters of `model` are donated.

        Raises:
          ValueError: a text to unlearn that the model does not know (subspaces).
          TrainingDiverged, Interrupted: see `loop.train`.
        """
        del before
        settings, stages = self.settings, self.settings.stages
        if self._begun:
            callbacks = lambda of: self._callbacks(of, directory)
            self._outcome = automatic.run(
                model, self._begun, settings, directory, callbacks
            )
            return self._outcome.model
        for number, stage in enumerate(stages, start=1):
            folder = directory
            if len(stages) > 1:
                folder = str(epath.Path(directory) / "stages" / f"{number}")
            if not stage.descends:
                model = self._by_subspaces(model, stage, folder)
                continue
            chosen = settings.of_descent(stage)
            packers = self.texts.packers.items()
            packers = {r: packer for r, packer in packers if chosen.data.rows[r]}
            texts = dataclasses.replace(self.texts, packers=packers)
            callbacks = lambda of: self._callbacks(of, directory)
            until = self._on_the_way.begin(directory, packers)
            how = (chosen, folder, callbacks, self._frozen, until)
            model = descent.descend(model, texts, *how)
        self._frozen = None
        return self._on_the_way.finish(model)

    def _by_subspaces(self, model: Model, stage: Stage, folder: str) -> Model:
        """The model after a stage of the subspace method.

        It also retains what an earlier stage has updated, which the model knows by then.
        """
        [role] = stage.roles
        packers = self.texts.packers
        groups = {"retain": self.texts.retained, "update": packers.get("update")}
        groups[role] = packers[role]
        texts = {
            name: tasks.of_documents(
                Group(name, cast(Role, name), ""), packer.documents, packer.context
            )
            for name, packer in groups.items()
            if packer
        }
        work = Work(model, texts, self.settings.of_subspaces(stage))
        subspace.check_rank(work)
        before = work.scores(model.params)
        between = self.watched.between_rounds() if self.watched else []
        done = subspace.run_stages(work, before, [set()], folder, between)
        return model.with_params(done.at(model.params, done.alpha))

    def _callbacks(self, model_of: Any, directory: str) -> list[Any]:
        """Asks some of the questions during the run, and shows the answers."""
        every = self.settings.loop.evaluate_every
        asks = self._on_the_way.callbacks(model_of, directory)
        if self._begun:  # which is measured at steps of its own
            every = controller.EVERY
        return [*asks, *(self.watched.callbacks(every) if self.watched else [])]

    def export(self, model: Model, directory: str) -> Model:
        """Writes model/ and gives the model that is scored after the run: what the files
        hold. The parameters of `model` are donated."""
        asked = self.settings.save_dtype
        dtypes = export_dtype.of_export(model.source, model.config, asked)
        model = model.with_params(export_dtype.rounded(model.params, dtypes))
        hf_weights.save_model(
            model.params,
            model.config,
            str(epath.Path(directory) / "model"),
            tokenizer_source=model.source,
            dtype=dtypes,
        )
        return model

    @property
    def budget(self) -> float:
        """Nats per token that held-out text may move by; 0 is no budget."""
        return self.settings.retain.budget

    def begun(self, before: dict[str, Any]) -> page.Page:
        """The report page of what is known before the run changes the model."""
        rows = table.accuracy_rows(before["groups"], before["groups"])
        rows += table.metric_rows(
            before["metrics"], before["metrics"], self.group_roles
        )
        roles = {r: {"before": one, "after": one} for r, one in before["roles"].items()}
        return page.Page(
            title=self._title,
            subtitle=f"model {self.settings.model}, seed {self.settings.seed}",
            rows=live.begun([*rows, *table.role_rows(roles)]),
            chances=table.chances_of(before["groups"]),
            settings=dataclasses.asdict(self.settings),
        )

    @property
    def _title(self) -> str:
        name = self.settings.benchmark.partition(":")[0]
        return f"LLM Surgery on {name}" if name else "LLM Surgery"

    def report(
        self, before: dict, after: dict, model: Model, directory: str
    ) -> tuple[dict[str, Any], page.Page]:
        """What results.json holds, and the report page without its examples."""
        one_by_one.write(directory, before["lines"], after["lines"])
        settings, points = self.settings, curve.read_curve(directory)
        texts, ended = self.texts, self._outcome
        if ended and self._begun:
            settings, texts = ended.settings, self._begun.texts
        if front := self._on_the_way.front:
            steps = int(front.points[-1]["step"])
            settings = dataclasses.replace(settings, steps=steps)
        elif points:
            last = {g: e["accuracy"] for g, e in after["groups"].items()}
            points = [*points, {"step": settings.steps} | last]
        epochs = settings.baseline_epochs
        if settings.model == "embedded" and not epochs:
            epochs = embedded.EPOCHS
        results = {
            "before": role_parts.by_group(before),
            "after": role_parts.by_group(after),
            "group_roles": self.group_roles,
            "roles": {
                role: {"before": before["roles"][role], "after": known}
                for role, known in after["roles"].items()
            },
            "cost": cost.of_surgery(settings, texts, model.config, epochs),
        }
        spoken = self._spoken(before["free_form"], after["free_form"])
        results |= {"free_form": spoken} if spoken else {}
        sentences = [table.cost_text(results["cost"])]
        if front:
            results["stop"] = front.found()
            sentences.insert(0, results["stop"]["why"])
        if ended:
            results["automatic"] = ended.found
            sentences.insert(0, ended.found["why"])
        rows = evidence.rows(spoken) if spoken else []
        rows += table.accuracy_rows(before["groups"], after["groups"])
        rows += table.metric_rows(before["metrics"], after["metrics"], self.group_roles)
        intervals = {"Wilson": after["groups"], "see the metrics": after["metrics"]}
        shown = page.Page(
            title=self._title,
            subtitle=f"model {settings.model}, {settings.steps} steps, "
            f"seed {settings.seed}",
            rows=rows + table.role_rows(results["roles"]),
            intervals=", ".join(how for how, found in intervals.items() if found),
            chances=table.chances_of(after["groups"]),
            curve=points,
            cost=results["cost"],
            settings=dataclasses.asdict(settings),
            sentences=sentences,
        )
        if self._begun:
            shown["knowledge"] = self._begun.marked(model.tokenizer)
        if front:
            shown["chosen"] = front.chosen()
        if ended:
            shown = budget.with_budget(shown, ended.found)
        return results, evidence.with_replies(shown, spoken) if spoken else shown

    def _spoken(self, before: Any, after: Any) -> dict[str, Any]:
        """The evidence of what the model says by itself; {} where it is not asked."""
        if not self._free_form:
            return {}
        asks = self._free_form
        return evidence.results(asks.asked, asks.choices, before, after)
