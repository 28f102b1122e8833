# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery: make a model forget, learn and remember (arXiv 2409.13054).

The story: data -> model -> questions before -> statistics of what must stay -> steps
of the three-term objective -> questions after -> model, results, report.
"""

import dataclasses
import math
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jax_surgery.benchmarks import model_source
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import records, roles
from jax_surgery.data.background import Background
from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import one_pass
from jax_surgery.methods import descent
from jax_surgery.methods.reference import FIELDS, Reading
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.metrics import multiple_choice, text
from jax_surgery.models import output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.optim import lora
from jax_surgery.optim.precondition import ridge
from jax_surgery.optim.precondition.moments import second_moments
from jax_surgery.parallel import mesh as meshes
from jax_surgery.report import cost, outcome, table
from jax_surgery.runs.questions import load_questions
from jax_surgery.train import curve, devices, reference_cache
from jax_surgery.train.loop import Hook, train
from jax_surgery.train.step import TrainState, init_state

STATISTICS_ROWS = 8  # rows of a forward pass, at least
REFERENCE_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Patient:
    """The model that is operated on, and its text."""

    params: Any
    config: ModelConfig
    tokenizer: Any
    source: str
    packers: dict[str, Packer]
    kept: Packer  # all text that must stay


def admit(settings: SurgerySettings) -> Patient:
    """Reads and checks all data, then loads tokenizer and model.

    Raises:
      FileNotFoundError, ValueError: see `roles.read_roles` and `hf_weights`.
    """
    data = settings.data
    sources = roles.RoleSources(data.unlearn, data.update, data.retain)
    read = roles.read_roles(sources, data.rows)
    # What must stay is mostly the retain role itself: read and tokenised once then.
    shared = "retain" in read and not settings.statistics.sources
    if shared:
        kept = read.pop("retain")
    else:
        kept = records.read_role(settings.statistics.sources or data.retain, "retain")
        if "unlearn" in read:
            records.check_overlap(read["unlearn"], kept)
    source = model_source(settings.model)
    tokenizer = hf_weights.load_tokenizer(source)
    keep = roles.pack_roles({"retain": kept}, tokenizer, data.context, data.average)
    background = None
    if data.surprise:
        background = Background(keep["retain"].documents, len(tokenizer))
    packers = roles.pack_roles(
        read,
        tokenizer,
        data.context,
        data.average,
        background,
        data.surprise,
        settings.seed if settings.loss.method.needs.pairs else None,
    )
    if shared:
        packers |= keep
    # Raises before it takes long.
    trainable = settings.trainable(hf_weights.load_config(source))
    moving = None if settings.lora.rank else trainable
    model = devices.load_model(source, settings.compute, moving, tokenizer)
    return Patient(
        model.params, model.config, tokenizer, source, packers, keep["retain"]
    )


def _statistics_rows(patient: Patient, settings: SurgerySettings) -> int:
    """Rows that one computation of the statistics reads, filled batches included."""
    rows = len(patient.kept.pack(settings.seed))
    if settings.statistics.tokens:
        limit = round(settings.statistics.tokens / settings.data.context)
        rows = min(rows, max(1, limit))
    batch = meshes.round_rows(STATISTICS_ROWS)
    return -(-rows // batch) * batch


def statistics_hooks(patient: Patient, settings: SurgerySettings) -> list[Hook]:
    """Sets the preconditioner's factors before the first step and on refreshes."""
    if not settings.optimizer.preconditioned:
        return []
    count = _statistics_rows(patient, settings)
    trainable = settings.trainable(patient.config)

    def refresh(step: int, state: TrainState) -> TrainState:
        rows = patient.kept.pack(settings.seed + step).take(slice(count))
        moments = second_moments(
            state.params,
            patient.config,
            (
                batch.for_devices()
                for batch, _ in one_pass(rows, meshes.round_rows(STATISTICS_ROWS))
            ),
            settings.compute,
            trainable,
        )
        factors = ridge.checked(
            moments, settings.statistics.ridge, "config.statistics.ridge"
        )
        return state._replace(opt_state=state.opt_state._replace(factors=factors))

    return [Hook(settings.statistics.refresh, refresh)]


def reference_folder(directory: str, key: str, role: str) -> str:
    """Where this process keeps its reference cache of a role, a local folder.

    Each process has one of its own, of all tokens: which rows it gets varies. Beside
    a workdir on gs:// it lies in the machine's folder for temporary files.
    """
    name = "reference" if role == "retain" else f"reference-{role}"
    if jax.process_count() > 1:
        name = f"{name}-{jax.process_index()}"
    if "://" in directory:
        local = pathlib.Path(tempfile.gettempdir()) / "jax_surgery" / key[:16]
        print(f"the reference cache is in {local}")
        return str(local / name)
    return str(pathlib.Path(directory) / name)


def reference_of(
    patient: Patient, settings: SurgerySettings, rows: RoleRows, directory: str
) -> dict[str, reference_cache.ReferenceCache]:
    """The cached reference of each role that the loss reads it on, made or opened; {}
    where it is live or not needed."""
    if settings.reference == "live":
        return {}
    return {
        role: _cache_of(patient, settings, role, reading, directory)
        for role, reading in settings.loss.readings(rows).items()
    }


def _cache_of(
    patient: Patient,
    settings: SurgerySettings,
    role: str,
    reading: Reading,
    directory: str,
) -> reference_cache.ReferenceCache:
    packer, config, compute = patient.packers[role], patient.config, settings.compute
    key = reference_cache.fingerprint(patient.params, packer, compute) + reading.key
    folder = reference_folder(directory, key, role)
    cache = reference_cache.open_on_all(folder, key)
    if cache is not None:
        return cache
    read = jax.jit(lambda params, batch: reading.read(params, config, batch, compute))
    return reference_cache.create_cache(
        folder,
        key,
        packer,
        lambda batch: meshes.fetch(read(patient.params, batch)),
        math.prod(reading.shape(config)),
        reading.dtype(compute),
        meshes.round_rows(REFERENCE_ROWS),
    )


def frozen_reference(params: Any, dtype: str) -> Any:
    """A copy of parameters as the forward pass reads them: in the compute dtype."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf.astype(dtype)), params)


def operate(
    patient: Patient, settings: SurgerySettings, directory: str, hooks: list[Hook]
) -> Any:
    """Runs the steps; returns the parameters after them.

    The patient's parameters are given up: the steps take their place. A frozen copy
    serves as reference, of the output head alone where the reference is cached. Of
    low-rank deltas they are the base, uncopied, to which the deltas are added at last.
    """
    data, low_rank = settings.data, settings.lora
    rows = devices.role_rows(data.rows, settings.accumulate)
    optimizer, step = descent.make_step(settings, patient.config, rows)
    caches = reference_of(patient, settings, rows, directory)
    if low_rank.rank:
        reference = patient.params
        params = lora.init_factors(patient.config, low_rank, settings.seed)
    else:
        params = patient.params
        needed = output_head.parameters(params) if caches else params
        if not settings.loss.readings(rows):
            needed = {}
        reference = frozen_reference(needed, settings.compute.dtype)

    def one_step(state: TrainState, batch: Batch):
        placed = batch.place(rows.total)
        for role, cache in caches.items():
            found = cache.gather(rows.take(batch.token_index_BT, role))
            found = meshes.place_rows(found, getattr(rows, role))
            placed = placed.replace(**{FIELDS[role]: found})
        return step(state, placed, reference)

    params = train(
        one_step,
        init_state(params, optimizer),
        devices.batch_stream(patient.packers, data.rows, rows, settings.seed),
        steps=settings.steps,
        directory=directory,
        settings=settings.loop,
        hooks=statistics_hooks(patient, settings) + hooks,
        title="surgery",
    ).params
    return lora.merge(patient.params, params, low_rank) if low_rank.rank else params


def count_cost(patient: Patient, settings: SurgerySettings) -> dict[str, Any]:
    """The `cost` of results.json, from what the settings make the run compute."""
    data, steps = settings.data, settings.steps
    refresh = settings.statistics.refresh
    times = 1 + ((steps - 1) // refresh if refresh else 0)
    if not settings.optimizer.preconditioned:
        times = 0
    rows = RoleRows(*(data.rows.get(role, 0) for role in ROLES))
    read_on = settings.loss.readings(rows)
    reference = sum(data.rows[role] for role in read_on) * steps * data.context
    if settings.reference == "cached":
        packed = (len(patient.packers[role].pack()) for role in read_on)
        reference = sum(packed) * data.context
    counts = cost.Counts(
        patient.config,
        data.context,
        trained_tokens=sum(data.rows.values()) * steps * data.context,
        reference_tokens=reference,
        statistics_tokens=times * _statistics_rows(patient, settings) * data.context,
        trainable=settings.trainable(patient.config),
        optimizer=settings.optimizer,
        steps=steps,
        refreshes=times,
        rank=settings.lora.rank,
    )
    kept = patient.kept.num_tokens
    if "update" in patient.packers:
        kept += patient.packers["update"].num_tokens
    return cost.compare(counts, kept, settings.baseline_epochs)


class Examiner:
    """Asks a run's questions and reads its roles, of any parameters."""

    def __init__(self, patient: Patient, settings: SurgerySettings):
        self._patient, self._settings = patient, settings

    def _model(self, params: Any) -> Model:
        patient, compute = self._patient, self._settings.compute
        return Model(params, patient.config, patient.tokenizer, compute, patient.source)

    def accuracies(
        self, params: Any, questions: tuple[Question, ...]
    ) -> dict[str, Any]:
        """Accuracies by group; {} without questions."""
        if not questions:
            return {}
        probe = Probe("all", self._settings.data.context, questions)
        answers = multiple_choice.answer(self._model(params), probe)
        return multiple_choice.summarise(answers)

    def of_state(
        self, state: TrainState, questions: tuple[Question, ...]
    ) -> dict[str, Any]:
        """Accuracies of what a run has come to; the base of deltas is not copied."""
        params, low_rank = state.params, self._settings.lora
        if low_rank.rank:
            params = lora.attach(self._patient.params, params, low_rank)
        return self.accuracies(params, questions)

    def roles(self, params: Any) -> dict[str, Any]:
        """How well each role's text is known: nats a token, and share of tokens
        that are the most likely one."""
        model = self._model(params)
        return {
            role: text.known(model, packer)
            for role, packer in self._patient.packers.items()
        }


def run(settings: SurgerySettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: bad data or settings, before any model is loaded.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    with devices.on_mesh(settings.mesh):
        return _run(settings, directory)


def _run(settings: SurgerySettings, directory: str) -> dict[str, Any]:
    questions = load_questions(settings.data.questions)
    patient = admit(settings)
    examiner = Examiner(patient, settings)
    before = examiner.accuracies(patient.params, questions)
    roles_before = examiner.roles(patient.params)
    examples = outcome.examples_of(patient, questions)

    few = multiple_choice.subsample(questions, settings.loop.evaluate_questions)
    every = settings.loop.evaluate_every if few else 0
    hooks = curve.watch(lambda state: examiner.of_state(state, few), every, directory)
    params = operate(patient, settings, directory, hooks)

    after = examiner.accuracies(params, questions)
    roles_after = examiner.roles(params)
    hf_weights.save_model(
        params,
        patient.config,
        str(epath.Path(directory) / "model"),
        tokenizer_source=patient.source,
    )
    results = {
        "before": before,
        "after": after,
        "roles": {
            role: {"before": roles_before[role], "after": roles_after[role]}
            for role in patient.packers
        },
        "cost": count_cost(patient, settings),
    }
    last = {g: e["accuracy"] for g, e in after.items()}
    points = curve.read_curve(directory)
    outcome.write(
        directory,
        results,
        title="LLM Surgery",
        rows=table.accuracy_rows(before, after) + table.role_rows(results["roles"]),
        intervals="Wilson" if questions else "",
        settings=dataclasses.asdict(settings),
        curve=[*points, {"step": settings.steps} | last] if points else [],
        examples=examples.after(params),
    )
    return results
