# SPDX-License-Identifier: Apache-2.0
"""Remove or add tasks: what `runs.unlearn` and `runs.learn` tell.

The story: tasks -> model -> scores before -> stages of rounds -> the change as an edit
-> model -> scores after -> curves along alpha, angles, spectra, examples -> report.
"""

import dataclasses
import time
from typing import Any

import jax
import optax
from etils import epath

from jax_surgery.benchmarks.tasks import similar_to
from jax_surgery.checkpoints import hf_weights
from jax_surgery.edits import apply, edit_file
from jax_surgery.methods.subspace import adapters, learn, low_rank, overlap, rounds
from jax_surgery.methods.subspace.alpha import choose_alpha
from jax_surgery.methods.subspace.harden import harden
from jax_surgery.methods.subspace.mend import mend
from jax_surgery.methods.subspace.operate import Stage, operate
from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.methods.subspace.subject import Scores, Subject, admit, kept_tasks
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.linalg import svd as linalg
from jax_surgery.parallel import distributed
from jax_surgery.parallel import mesh as meshes
from jax_surgery.report import subspace_outcome as outcome
from jax_surgery.runs.patch import provenance
from jax_surgery.train import devices


@dataclasses.dataclass(frozen=True, eq=False)
class Operated:
    """What the stages give.

    Attributes:
      change: T' of all of them, [layers, inputs, outputs] each; what is added.
      pairs: its factors, a [layers, inputs, rank] and b [layers, rank, outputs].
      last: the last stage.
      seconds: of each stage.
      similar: kept tasks that are similar to a target of any stage.
      adapter: LoRA's factors, or None.
      moving: what the change is of; of an adapter, every layer.
      kept: of each stage, what was kept and by which statistics.
    """

    change: Matrices
    pairs: dict[str, tuple[jax.Array, jax.Array]]
    last: Stage
    seconds: list[float]
    similar: set[str]
    adapter: Any
    moving: Trainable
    kept: list[dict[str, Any]]


def tell(settings: SubspaceSettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: bad tasks or settings, before anything is changed.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    with devices.on_mesh(settings.mesh):
        return _tell(settings, directory)


def _tell(settings: SubspaceSettings, directory: str) -> dict[str, Any]:
    subject = admit(settings)
    _check_rank(subject)
    came = subject.params
    if settings.adapter:  # what it has taught or taken is part of what came
        came = adapters.attached(subject, adapters.first_factors(subject))
    before = subject.scores(came)
    kept_tasks(before, settings, 0)  # raises before anything takes long
    examples = outcome.examples_of(subject, came)
    angles = overlap.measure(subject, before)
    done = stages(subject, before, angles, directory)

    def at(alpha: float) -> Any:
        return learn.learn(subject.params, done.change, alpha, done.moving)

    alpha = choose_alpha(done.last, came, at)
    curve = outcome.curve(subject, came, before, done.similar, at)
    edited = _export(subject, done, alpha, directory)
    after = subject.scores(edited)
    results = {
        "run": settings.run,
        "tasks": outcome.of_tasks(before, after, done.similar, settings),
        "alpha": alpha,
        "curve": curve,
        "overlaps": angles.as_results() if angles else {},
        "seconds": done.seconds,
        "change_norm": float(_relative_norm(done, alpha, subject)),
    }
    outcome.write(
        directory,
        results,
        subject,
        angles,
        spectra={n: linalg.singular_values(m) for n, m in done.change.items()},
        examples=examples.after(edited),
    )
    return results


def _relative_norm(done: Operated, alpha: float, subject: Subject) -> jax.Array:
    """Norm of the change, relative to that of the matrices that move."""
    weights = optax.tree.norm(done.moving.take(subject.params))
    return alpha * optax.tree.norm(done.change) / weights


def _check_rank(subject: Subject) -> None:
    """Raises ValueError where all of a change would have to be factored exactly."""
    settings = subject.settings
    widest = min(subject.config.hidden_size, subject.config.intermediate_size)
    all_of_it = not settings.lora.rank and not settings.rounds.rank
    if all_of_it and widest > linalg.EXACT_WIDTH:
        raise ValueError(
            f"config.rounds.rank=0 keeps every singular vector of matrices {widest} "
            f"wide; above {linalg.EXACT_WIDTH} they are not computed. Use "
            "config.rounds.rank=64, say."
        )


def stages(
    subject: Subject, before: Scores, angles: overlap.Angles | None, directory: str
) -> Operated:
    """All stages of a run, one after another."""
    settings = subject.settings
    params, factors, stage = subject.params, None, None
    every_similar: set[str] = set()
    seconds, kept_by = [], []
    if settings.lora.rank:
        factors = adapters.first_factors(subject)
        params = adapters.attached(subject, factors)
    for number, targets in enumerate(settings.tasks.stages):
        kept = kept_tasks(before, settings, number)
        similar = _similar(subject, targets, angles)
        every_similar |= similar & set(kept)
        folder = epath.Path(directory) / "stages" / f"{number + 1}"
        stage = Stage(subject, params, targets, kept, similar, before, str(folder))
        began = time.perf_counter()
        if settings.lora.rank:
            factors = adapters.adapt(stage, factors)
            params = adapters.attached(subject, factors)
        else:
            params = operate(stage)
            if settings.harden.copies:
                params = harden(stage, params)
            params = mend(stage, params)
        jax.block_until_ready(params)
        seconds.append(time.perf_counter() - began)
        kept_by.append(_kept_by(stage))
    moving = settings.trainable(subject.config)
    if settings.lora.rank:
        moving = dataclasses.replace(moving, first_layer=0)
        pairs = low_rank.as_pairs(factors, settings.lora)
        change = low_rank.change(factors, settings.lora)
    else:
        change = rounds.change_of(params, moving.take(subject.params), moving)
        pairs = learn.factors(change, settings.rounds.rank)
    return Operated(
        change, pairs, stage, seconds, every_similar, factors, moving, kept_by
    )


def _kept_by(stage: Stage) -> dict[str, Any]:
    """What an edit says of a stage: its tasks, and what its statistics are cached under.

    That is a hash of the kept text and of the model as it came; later stages read the
    same text in the model that they find.
    """
    said: dict[str, Any] = {
        "targets": stage.targets,
        "kept": stage.kept,
        "similar": sorted(stage.similar & set(stage.kept)),
    }
    settings = stage.subject.settings
    if (
        settings.discriminate.method == "ridge"
        and stage.kept
        and not settings.lora.rank
    ):
        said["statistics"] = stage.kept_text.key
    return said


def _similar(
    subject: Subject, targets: list[str], angles: overlap.Angles | None
) -> set[str]:
    chosen = subject.settings.tasks
    if chosen.similar == "overlap":
        return angles.similar_to(targets, chosen.overlap)
    tasks = {name: text.task for name, text in subject.texts.items()}
    return similar_to(targets, tasks, chosen.similar)


def _export(subject: Subject, done: Operated, alpha: float, directory: str) -> Any:
    """Writes the edit, and the checkpoint that it makes; gives that, loaded."""
    folder = epath.Path(directory)
    settings = subject.settings
    source = hf_weights.resolve(subject.source)
    host = jax.tree.map(meshes.fetch, done.pairs)
    if done.adapter is not None:
        adapter = jax.tree.map(meshes.fetch, done.adapter)
        adapters.save(adapter, subject, str(folder / "adapter"))
    if distributed.is_lead():
        factors = edit_file.from_matrices(subject.config, host, done.moving.first_layer)
        edit = edit_file.Edit(
            factors,
            alpha,
            edit_file.fingerprint(source, factors),
            provenance(
                run=settings.run,
                stages=done.kept,
                model=subject.source,
                settings=dataclasses.asdict(settings),
            ),
        )
        if (folder / "model").exists():  # of this run, stopped after it was written
            (folder / "model").rmtree()
        applied = apply.apply(edit, source, folder / "model")
        edit_file.save_edit(applied.edit, folder / "edit.safetensors")
    distributed.wait("export")
    # As the model before it was held, so that scores are of the same arithmetic.
    moving = None if settings.lora.rank else settings.trainable(subject.config)
    return devices.load_model(
        str(folder / "model"), settings.compute, moving, subject.tokenizer
    ).params
