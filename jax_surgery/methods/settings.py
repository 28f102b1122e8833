# SPDX-License-Identifier: Apache-2.0
"""Settings of a surgery: what its method reads, and the texts of its roles."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal

from jax_surgery.config import at_least, check_seed, positive
from jax_surgery.data.pairs import Alternatives
from jax_surgery.data.roles import RoleData
from jax_surgery.methods import settings_checks
from jax_surgery.methods.automatic.settings import Retain
from jax_surgery.methods.base import PairMethod
from jax_surgery.methods.inside.settings import Inside
from jax_surgery.methods.loku import LoKU
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.methods.stages import Stage, parse_stages
from jax_surgery.methods.subspace.settings import (
    Adapter,
    AdapterSteps,
    Rounds,
    Tasks,
    TasksSettings,
    TasksStatistics,
)
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import ALL, Trainable, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.optim.precondition.ridge import Scale
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop import Loop
from jax_surgery.train.stop import Stop

# One of so many layers moves in a run that keeps to a budget, the upper ones: a step gains
# most there for its KL, and what lies below is computed once.
UPPER = 6


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of retained text, for the preconditioner."""

    sources: str  # text to be retained; "" takes data.retain
    tokens: int  # read for them; 0 reads all
    ridge: float  # relative to the mean eigenvalue, or to each input's own moment
    scale: Scale  # see `ridge.factorise`

    def __post_init__(self):
        at_least(0, self, "config.statistics", "tokens")
        why = "without it directions that retained text never uses have no bound"
        positive(self.ridge, "config.statistics.ridge", why)


@dataclasses.dataclass(frozen=True)
class SurgerySettings:
    """A run on texts by role (`run = "surgery"`)."""

    run: str
    model: str  # "embedded", a directory, or a hub name
    seed: int
    method: str  # see `methods.stages`
    benchmark: str  # what is asked too; of roles without sources also their text
    data: RoleData
    free_form: int  # prompts of a group that are asked; -1 chooses, 0 asks none
    attacks: str  # tried on the finished model; "" for none
    mesh: MeshShape
    compute: Compute
    objective: Objective
    inside: Inside
    retain: Retain
    reference: Literal["live", "cached"]  # "cached": on disk, see `frozen_states`
    reference_model: str  # the frozen model, as `model`; "" is the model before the run
    lora: LowRank
    optimizer: OptimizerChoice
    steps: int
    accumulate: int  # micro-batches a step
    statistics: Statistics
    rounds: Rounds  # of stages by subspaces
    loop: Loop
    stop: Stop
    baseline_epochs: float  # passes of the naive alternative; 0 where not known
    # Of the exported weights; "" is the dtype that the model came in.
    save_dtype: Literal["", "float32", "bfloat16", "float16"]

    # What a user need not choose.
    FIXED: ClassVar = {
        "compute": {"unroll": 0},
        "optimizer": {"final": 0.0},  # of the peak
        "loop": {
            "log_every": 1,  # steps
            "evaluate_questions": 200,  # a group, during the run
            "keep": 2,  # checkpoints
        },
    }

    def __post_init__(self):
        at_least(1, self, "config", "accumulate")
        at_least(0, self, "config", "steps", "baseline_epochs")
        at_least(-1, self, "config", "free_form")
        check_seed(self.seed)
        settings_checks.budget(self)
        if not self.retain.budget:  # else 0 takes as many as the texts ask for
            at_least(1, self, "config", "steps")
        for stage in self.stages:
            rows = [self.data.rows[role] for role in stage.roles]
            if stage.descends and not any(rows) and len(self.stages) > 1:
                raise ValueError(
                    f"config.method={self.method!r}: the stage {stage.text} changes "
                    f"{' and '.join(stage.roles)}, whose rows are 0; give "
                    f"config.data.rows_{stage.roles[0]} rows, or leave the stage out."
                )
            if stage.descends:
                self._check_descent(stage)
                continue
            [role] = stage.roles
            if not self.data.rows[role]:
                raise ValueError(
                    f"config.method={self.method!r} changes the role {role}, and "
                    f"config.data.rows_{role}=0 leaves it out; give it rows."
                )
            if self.of_subspaces(stage).subspace.discriminate == "gram_schmidt":
                raise ValueError(
                    f"config.method={self.method!r}: gram_schmidt needs groups that are "
                    "similar to the targets, and texts by role name none; use "
                    "subspace:discriminate=ridge, or a tasks file (configs/unlearn.py)."
                )
            if self.lora.rank:
                raise ValueError(
                    f"config.lora.rank={self.lora.rank}: a stage by subspaces changes "
                    "the weights themselves; use config.lora.rank=0 with it."
                )
        settings_checks.streams(self)
        settings_checks.reference(self)
        settings_checks.stop(self)
        inside = self.inside
        below = self.reference == "cached" and self.optimizer.first_layer != 0
        if below and (inside.silenced or inside.copies):
            raise ValueError(
                f"config.reference='cached' with config.inside.silenced="
                f"{inside.silenced:g} and copies={inside.copies}: what the layers below "
                f"config.optimizer.first_layer={self.optimizer.first_layer} give is "
                "computed once, and nothing could be left out or relearned there; use "
                "reference='live', or first_layer=0."
            )
        if self.lora.rank:
            self.lora.check_optimizer(self.optimizer)
            if self.inside.copies:
                raise ValueError(
                    f"config.inside.copies={self.inside.copies}: copies relearn with the "
                    "weights themselves, which low-rank deltas leave as they are; use "
                    f"copies=0, or config.lora.rank=0 (it is {self.lora.rank})."
                )

    def _check_descent(self, stage: Stage) -> None:
        """Raises ValueError where a method lacks what its steps need."""
        method = stage.method
        if isinstance(method, LoKU) and not self.lora.rank:
            raise ValueError(
                f"config.method={self.method!r} moves low-rank deltas, whose rank "
                "config.lora.rank is 0; give 8, say, with config.optimizer.name=adamw and "
                "config.optimizer.matrices=''."
            )
        if method.applied < 0 and "update" in stage.roles and self.data.rows_update:
            raise ValueError(
                f"config.method={self.method!r} subtracts what its steps learn, and "
                f"config.data.rows_update={self.data.rows_update} would be learned in "
                f"them; write {stage.text}@unlearn;surgery@update, or give "
                "config.data.rows_update=0."
            )

    @functools.cached_property
    def stages(self) -> list[Stage]:
        """The stages of `method`.

        Raises:
          ValueError: see `stages.parse_stages`.
        """
        return parse_stages(self.method)

    @property
    def descents(self) -> list[Stage]:
        """The stages that descend along a loss."""
        return [stage for stage in self.stages if stage.descends]

    @property
    def loss(self) -> Loss:
        """What a step minimises, of the first stage that descends.

        Raises:
          ValueError: there is none.
        """
        if not self.descents:
            raise ValueError(
                f"config.method={self.method!r} has no stage that descends along a "
                "loss; use 'surgery', say."
            )
        return Loss(self.objective, self.descents[0].method, self.inside)

    def of_descent(self, stage: Stage) -> "SurgerySettings":
        """The settings of one stage that descends: no rows of roles it leaves alone, nor
        of retained text where its method reads none."""
        read = stage.roles
        if stage.method.retains != "none":
            read = (*read, "retain")
        rows: dict[str, Any] = {
            f"rows_{role}": count if role in read else 0
            for role, count in self.data.rows.items()
        }
        return dataclasses.replace(
            self, method=stage.text, data=dataclasses.replace(self.data, **rows)
        )

    def of_subspaces(self, stage: Stage) -> TasksSettings:
        """The settings of one stage by subspaces: a run on tasks, which are the roles."""
        data, [role] = self.data, stage.roles
        rows = data.rows[role], data.rows_retain
        return TasksSettings(
            run="learn" if role == "update" else "unlearn",
            model=self.model,
            seed=self.seed,
            method=stage.text,
            tasks=Tasks("", role, "", data.chat, "never", data.context, *rows),
            free_form=0,
            attacks="",
            rounds=self.rounds,
            statistics=TasksStatistics(cache=""),
            lora=Adapter(rank=0, alpha=1.0),
            adapter="",
            optimizer=AdapterSteps(0.0),
            mesh=self.mesh,
            compute=self.compute,
            report="scores",
            loop=self.loop,
        )

    @property
    def pairs(self) -> Alternatives | None:
        """Where the alternatives come from with which a method compares unlearn texts;
        None where none does."""
        methods = [stage.method for stage in self.descents]
        found = [m.alternatives for m in methods if isinstance(m, PairMethod)]
        return found[0] if found else None

    @property
    def readers_of_retained(self) -> dict[str, str]:
        """Fields that read retained text, and what they can be where there is none."""
        name, surprise = self.optimizer.name, self.data.surprise
        found = {}
        if self.descents and self.optimizer.preconditioned:
            instead = "config.optimizer.name=adamw with a rate for it"
            found[f"config.optimizer.name={name}"] = instead
        if any(isinstance(stage.method, LoKU) for stage in self.descents):
            found[f"config.method={self.method}"] = "config.method=ihl"
        if surprise:
            found[f"config.data.surprise={surprise:g}"] = "config.data.surprise=0"
        return found

    def trainable(self, config: ModelConfig) -> Trainable:
        """What steps of descent move of a model, or whose low-rank deltas.

        A run that keeps to a budget, and whose first layer is 0, moves the upper layers
        alone (`UPPER`).

        Raises:
          ValueError: see `trainable.resolve`.
        """
        first = self.optimizer.first_layer
        if self.retain.budget and not first:
            first = config.num_layers - -(-config.num_layers // UPPER)
        return resolve(
            config,
            first,
            self.lora.matrices if self.lora.rank else self.optimizer.matrices,
            rank=self.lora.rank,
            only_matrices=self.optimizer.preconditioned,
        )

    def moving(self, config: ModelConfig) -> Trainable | None:
        """The model's own parameters that the run changes; None if it changes none.

        Raises:
          ValueError: see `trainable`.
        """
        parts = [
            (self if stage.descends else self.of_subspaces(stage)).trainable(config)
            for stage in self.stages
        ]
        if self.lora.rank:
            return None
        if any(not part.matrices for part in parts):
            return ALL
        first = min(part.first_layer for part in parts)
        names = [n for n in MATRICES if any(n in part.matrices for part in parts)]
        return Trainable(first, tuple(names))
