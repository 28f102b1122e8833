# SPDX-License-Identifier: Apache-2.0
"""All stages of the subspace method on a model's groups, and the change that they make."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax
from etils import epath

from jax_surgery.methods.subspace import adapters, changes, knowledge
from jax_surgery.methods.subspace.harden import harden
from jax_surgery.methods.subspace.stage import Stage, choose_alpha
from jax_surgery.methods.subspace.stage_rounds import mend, one_shot, run_rounds
from jax_surgery.methods.subspace.work import (
    WIDE_RANK,
    Scores,
    Work,
    retained_groups,
)
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim import lora
from jax_surgery.optim.linalg import svd
from jax_surgery.parallel import progress
from jax_surgery.train.loop import Callback


@dataclasses.dataclass(frozen=True, eq=False)
class Changed:
    """What the stages give.

    Attributes:
      change: T' of all of them, [layers, inputs, outputs] each; what is added.
      pairs: its factors, a [layers, inputs, rank] and b [layers, rank, outputs].
      last: the last stage.
      seconds: of each stage.
      similar: retained groups that are similar to a target of any stage.
      adapter: LoRA's factors, or None.
      moving: what the change is of; of an adapter, every layer.
      alpha: how many times the change is to be taken.
      stages: of each stage, what was retained and by which statistics.
    """

    change: Matrices
    pairs: dict[str, tuple[jax.Array, jax.Array]]
    last: Stage
    seconds: list[float]
    similar: set[str]
    adapter: Any
    moving: Trainable
    alpha: float
    stages: list[dict[str, Any]]

    def at(self, params: Any, alpha: float) -> Any:
        """Parameters with the change taken `alpha` times."""
        return changes.added(params, self.change, alpha, self.moving)

    def relative_norm(self, params: Any) -> float:
        """Norm of what is taken, relative to that of the matrices that move."""
        weights = optax.tree.norm(self.moving.take(params))
        return float(self.alpha * optax.tree.norm(self.change) / weights)


def check_rank(work: Work) -> None:
    """Raises ValueError where all of a change would have to be factored exactly."""
    if not work.how.lora.rank and not work.rank and work.widest > svd.EXACT_WIDTH:
        raise ValueError(
            f"config.rounds.rank=0 keeps every singular vector of matrices {work.widest} "
            f"wide; above {svd.EXACT_WIDTH} they are not computed. Use "
            f"config.rounds.rank={WIDE_RANK}, say."
        )


def run_stage(stage: Stage) -> Any:
    """The parameters after a stage: its single subtraction, or rounds, hardening, and
    what restores the rest."""
    if stage.work.how.subspace.one_shot:
        return one_shot(stage)
    params = run_rounds(stage)
    if stage.work.how.subspace.harden:
        params = harden(stage, params)
    return mend(stage, params)


def run_stages(
    work: Work,
    before: Scores,
    similar: Sequence[set[str]],
    directory: str,
    callbacks: Sequence[Callback] = (),
) -> Changed:
    """All stages of a run, one after another.

    Args:
      work: the model before the run, and its groups.
      before: its scores.
      similar: groups similar to the targets, of each stage.
      directory: of the run.
      callbacks: called between the rounds of every stage.

    Raises:
      ValueError: a target to remove that the model does not know; see `choose_alpha`.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    how, targets, learns = work.how, work.how.tasks.stages, work.how.learns
    params, factors, stage = work.model.params, None, None
    every_similar: set[str] = set()
    seconds, stages = [], []
    if how.lora.rank:
        factors = adapters.first_factors(work)
        params = adapters.attached(work, factors)
    for number, names in enumerate(targets):
        known = [name for name in names if work.texts[name].ends]
        retained = retained_groups(
            before, targets, number, learns=learns, measured=known
        )
        retained += work.written
        near = similar[number] & set(retained)
        every_similar |= near
        folder = str(epath.Path(directory) / "stages" / f"{number + 1}")
        of_stage = (names, retained, near, before, folder, callbacks)
        stage = Stage(work, params, *of_stage)
        began = time.perf_counter()
        if how.lora.rank:
            factors = adapters.adapt(stage, factors)
            params = adapters.attached(work, factors)
        else:
            params = run_stage(stage)
        jax.block_until_ready(params)
        seconds.append(time.perf_counter() - began)
        stages.append(_described(stage))
    assert stage, "there is a stage at least"
    moving = work.trainable
    if how.lora.rank:
        moving = dataclasses.replace(moving, first_layer=0)
        pairs = lora.pairs(factors, how.low_rank)
        change = changes.product(pairs)
    else:
        change = changes.change_of(params, moving.take(work.model.params), moving)
        with progress.phase("factoring the change"):
            pairs = changes.factors(change, work.rank)
    with progress.phase("choosing how much of the change is made"):
        alpha = choose_alpha(
            stage,
            [name for names in targets for name in names],
            work.model.params,
            lambda alpha: changes.added(work.model.params, change, alpha, moving),
        )
    return Changed(
        change, pairs, stage, seconds, every_similar, factors, moving, alpha, stages
    )


def _described(stage: Stage) -> dict[str, Any]:
    """What an edit says of a stage: its groups, and the key of its statistics' cache.

    That is a hash of the retained text and of the model before the run; later stages
    read the same text in the model that they find.
    """
    said: dict[str, Any] = {
        "targets": stage.targets,
        "kept": stage.retained,
        "similar": sorted(stage.similar),
    }
    how = stage.work.how
    if knowledge.kind_of(stage) == "ridge" and not how.lora.rank:
        said["statistics"] = stage.retained_text.key
    return said
