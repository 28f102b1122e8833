# SPDX-License-Identifier: Apache-2.0
"""A run that keeps to a budget, from records to the changed model.

    records -> what the model writes by itself (`completion`)
            -> which tokens carry knowledge, and where each ends (`never_knew`)
            -> steps on   alpha * distance of these tokens to their ends
                        + beta  * CE of the update
                        + gamma * factor * KL on retained text
               under KL <= config.retain.budget on text held out from training
            -> the best point of the way (`controller`)

Retained are the records of that role, what the model wrote, and of the texts to unlearn
the tokens that carry no knowledge: how a sentence is built is not to be forgotten.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from jax_surgery.data.batch import Batch
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.roles import RoleRecords
from jax_surgery.data.tokens import Document, encode
from jax_surgery.methods import descent
from jax_surgery.methods.automatic import (
    beginnings,
    completed,
    completion,
    controller,
    held_out,
    how_many,
    known_texts,
    layer_steps,
    retained_texts,
    shown_tokens,
    subjects,
    update_texts,
)
from jax_surgery.methods.automatic.controller import Controlled, Controller
from jax_surgery.methods.automatic.ends import Ends, with_ends
from jax_surgery.methods.automatic.known_texts import Known
from jax_surgery.methods.automatic.never_knew import TokenEnds
from jax_surgery.methods.descent import Descent, MakeCallbacks
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.model import Model
from jax_surgery.parallel import host_memory, progress
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import devices
from jax_surgery.train.loop import Callback, train


@dataclasses.dataclass(frozen=True, eq=False)
class Begun:
    """What a run begins with, measured on the model before it is changed.

    Attributes:
      written: by the model.
      known: the texts to unlearn, and what their tokens carry.
      texts: that are trained on.
      ends: where each token of the unlearn texts ends.
      told: texts to update of the user's own; learning ends with these.
      held_out: retained records that are not trained on, by kind.
    """

    written: completed.Completed
    known: Known
    texts: RoleTexts
    ends: TokenEnds
    told: list[Document]
    held_out: dict[str, list[Record]]

    def marked(self, tokenizer: Any) -> list[Any]:
        """Tokens of some texts to unlearn with the nats of knowledge that they carry, as
        `report.page.Page` shows them."""
        known = self.known
        of = (known.documents, known.targets, known.asked)
        return shown_tokens.marked(tokenizer, *of)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a run gives.

    Attributes:
      model: changed, at the best point.
      settings: of the run, with the steps that were taken and what it chose.
      found: what results.json holds as "automatic".
    """

    model: Model
    settings: SurgerySettings
    found: dict[str, Any]


def begin(
    model: Model, records: RoleRecords, settings: SurgerySettings, directory: str
) -> Begun:
    """What a run begins with.

    Args:
      model: before it is changed.
      records: by role.
      settings: of one stage, whose method is `NeverKnew`.
      directory: of the run, where what the model writes is kept.

    Raises:
      ValueError: nothing of the text to unlearn is known to the model; see `encode`.
    """
    written = completed.nothing()
    if settings.retain.complete:
        how = completion.Completion()
        written = completion.complete(model, records, how, settings.seed, directory)
        host_memory.release_freed_memory()
    with progress.phase("measuring what the texts to unlearn tell"):
        known = known_texts.measure(model, records, written, settings)
    host_memory.release_freed_memory()
    with progress.phase("packing texts"):
        begun = _begun(model, records, written, known, settings)
    print(_told(begun))
    return begun


def measures(
    model: Model, begun: Begun, settings: SurgerySettings
) -> tuple[held_out.HeldOut, Ends]:
    """What a run is measured by: how far held-out text has moved from what the model says
    of it now, and how far forgetting and learning are from their ends."""
    context, average = settings.data.context, settings.data.average
    held = {k: _retained(k, rows, model, context) for k, rows in begun.held_out.items()}
    beginning = begun.texts.packers["retain"].beginning
    packers, of = begun.texts.packers, (model.config, model.compute)
    if begun.told:
        told = Packer(begun.told, context, average, beginning=beginning)
        packers = packers | {"update": told}
    how = (settings.seed, settings.trainable(model.config))
    ends = Ends(settings.loss, packers, begun.ends, *of, *how)
    first = settings.trainable(model.config).first_layer
    return held_out.HeldOut(model, held, context, beginning, first), ends


def run(
    model: Model,
    begun: Begun,
    settings: SurgerySettings,
    directory: str,
    make_callbacks: MakeCallbacks = lambda model_of: (),
) -> Outcome:
    """Changes a model; its parameters are donated.

    Args:
      begun: see `begin`.
      settings: as they were there; see `how_many.fitted`.
      directory: of the run.
      make_callbacks: see `descent.descend`.

    Raises:
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    settings = how_many.fitted(settings, begun.texts.packers)
    budget, trainable = settings.retain.budget, settings.trainable(model.config)
    with progress.phase("reading what is held out"):
        held_text, ends = measures(model, begun, settings)

    def measured(params: Any) -> tuple[dict[str, float], float, float]:
        return held_text.kl(params), *ends.measure(params)

    how = (budget, trainable.replaced, directory, settings.objective.gamma)
    keeper = Controller(measured, *how)
    with progress.phase("preparing the steps"):
        ready = descent.prepare(model, begun.texts, settings, directory)
    host_memory.release_freed_memory()

    def lengthen(step: int, state: Controlled) -> Controlled:
        """Gives steps the curvature of the KL, and the KL its first weight."""
        del step  # the first alone
        train = state.train
        with progress.phase("the gradients of what is to end"):
            gradients = ends.gradients(train.params)
        with progress.phase("measuring how far steps may go"):
            found = layer_steps.measured(
                train.params,
                gradients,
                train.opt_state.factors,
                trainable,
                held_text.kl_of_part,
                lambda params: max(held_text.kl(params).values()),
                budget,
                settings.optimizer.name,
            )
        layer_steps.write(directory, found.rows)
        host_memory.release_freed_memory()
        factors = train.opt_state._replace(factors=found.factors)
        state = state._replace(train=train._replace(opt_state=factors))
        return keeper.begin(state, found.gain)

    before = descent.statistics_callbacks(model.config, begun.texts.retained, settings)
    before = [_of_train(callback) for callback in before]
    before.append(Callback(0, lengthen))
    end = _train(ready, begun, settings, directory, keeper, before, make_callbacks)
    with progress.phase("looking for the best point"):
        end = keeper.finish(int(end.train.step), end)
    params = trainable.replaced(end.best, end.train.params)
    why = controller.verdict(end, keeper.points, budget)
    print(why)
    written = begun.written.by_kind()
    found = {
        "budget": budget,
        "step": int(end.at),
        "steps": int(end.train.step),
        "optimizer": settings.optimizer.name,
        "reached": end.reached,
        "why": why,
        "written": {kind: len(rows) for kind, rows in written.items()},
        "knowledge_tokens": int(begun.known.targets.carries.sum()),
        "curve": keeper.points,
        "layer_steps": layer_steps.read(directory),
    }
    settings = dataclasses.replace(settings, steps=int(end.train.step))
    return Outcome(model.with_params(params), settings, found)


def _retained(
    kind: str, records: Sequence[Record], model: Model, context: int
) -> list[Document]:
    """Records to retain, of the user's own without the ends of short answers."""
    if not records:
        return []
    documents = encode(records, model.tokenizer, context)
    return retained_texts.without_ends(documents) if kind == "retain" else documents


def _begun(
    model: Model,
    records: RoleRecords,
    written: completed.Completed,
    known: Known,
    settings: SurgerySettings,
) -> Begun:
    data = settings.data
    kinds = {"retain": records.by_role.get("retain", []), **written.retained()}
    train_on, held = held_out.split(kinds, settings.seed)
    unlearn, ends = known.to_unlearn()
    told, further = records.by_role.get("update", []), written.reworded
    of_update = (told, further, written.sentences)
    new = update_texts.documents(*of_update, model.tokenizer, data.context)
    of_kinds = {
        k: _retained(k, rows, model, data.context) for k, rows in train_on.items()
    }
    updated = {subjects.question_of(row) for row in (*told, *further)} - {""}
    rest = known.to_retain(updated)
    by_role = {
        "unlearn": unlearn,
        "update": [*new.told, *new.written],
        "retain": retained_texts.balanced(of_kinds | {"unlearn": rest}),
    }
    aside = [encode(rows, model.tokenizer, data.context) for rows in held.values()]
    tokens = settings.statistics.tokens
    # Other texts of large kinds than those that are trained on.
    read = retained_texts.alike(of_kinds | {"unlearn": rest}, tokens)
    everything = [*itertools.chain(*by_role.values(), *aside, read)]
    beginning = beginnings.shared(model, everything, data.context)
    packed = lambda documents: Packer(
        documents, data.context, data.average, beginning=beginning
    )
    packers = {role: packed(docs) for role, docs in by_role.items() if docs}
    texts = RoleTexts(packers, packed(read))
    places = packers["unlearn"].places
    return Begun(written, known, texts, ends.at(places), new.told, held)


def _told(begun: Begun) -> str:
    """What a run begins with, in a line."""
    packers = begun.texts.packers
    counts = ", ".join(
        f"{len(p.documents)} texts to {role}" for role, p in packers.items()
    )
    tokens = int(begun.known.targets.carries.sum())
    out = ", ".join(f"{len(rows)} of {kind}" for kind, rows in begun.held_out.items())
    return f"{counts}; {tokens} tokens carry knowledge; held out: {out or 'nothing'}"


def _of_train(callback: Callback) -> Callback:
    """A callback of a state of training, as one of a controlled one."""

    def inner(number: int, state: Controlled) -> Controlled:
        return state._replace(train=callback.run(number, state.train))

    return Callback(callback.every, inner)


def _train(
    ready: Descent,
    begun: Begun,
    settings: SurgerySettings,
    directory: str,
    keeper: Controller,
    before: Sequence[Callback],
    make_callbacks: MakeCallbacks,
) -> Controlled:
    """The state after the last step.

    Args:
      before: what changes the state of training before the first step.
    """
    rows, data, texts, ends = ready.rows, settings.data, begun.texts, begun.ends
    model_of: Any = lambda state: ready.model_of(state.train)
    config = ready.model_of(ready.state).config
    trainable = settings.trainable(config)
    mine = meshes.rows_here(rows.total)
    unlearn_B = rows.holds("unlearn", rows.total)[mine]

    def step(state: Controlled, batch: Batch):
        batch = with_ends(batch, unlearn_B, ends)
        after, metrics = ready.step(state.train, batch, **keeper.fields(state))
        return controller.stepped(state, after, trainable.cut), metrics

    start = controller.begin(ready.state, trainable.cut)
    return train(
        step,
        start,
        devices.batch_stream(texts.packers, data.rows, rows, settings.seed),
        steps=settings.steps,
        directory=directory,
        settings=settings.loop,
        callbacks=[
            *before,
            Callback(1, keeper.measure),
            *make_callbacks(model_of),
        ],
        title="surgery",
        until=keeper.until,
        advice=settings.loss.advice(rows),
        collapsed=lambda state: ready.collapsed(state.train),
    )
