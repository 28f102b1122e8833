# SPDX-License-Identifier: Apache-2.0
"""Settings of a surgery: what its method reads, and the texts of its roles."""

import dataclasses
from typing import ClassVar

from jax_surgery import methods
from jax_surgery.config import at_least, positive_ridge
from jax_surgery.data.roles import RoleData
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.methods.stages import StageMethod, parse_stages
from jax_surgery.methods.subspace.settings import How, Rounds
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import ALL, Trainable, resolve
from jax_surgery.optim.lora import FULL, LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop_settings import Loop

RECORDS = 1000  # of the retained text that a stage by subspaces reads


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of retained text, for the preconditioner."""

    sources: str  # text to be retained; "" takes data.retain
    tokens: int  # read for them; 0 reads all
    ridge: float  # relative to the mean eigenvalue

    def __post_init__(self):
        at_least(0, self, "config.statistics", "tokens")
        positive_ridge(self.ridge, "config.statistics")


@dataclasses.dataclass(frozen=True)
class SurgerySettings:
    """A run on texts by role (`run = "surgery"`)."""

    run: str
    model: str  # "embedded", a directory, or a hub name
    seed: int
    method: str  # see `methods.stages`
    data: RoleData
    mesh: MeshShape
    compute: Compute
    objective: Objective
    reference: str  # "live", or "cached" hidden states on disk
    lora: LowRank
    optimizer: OptimizerChoice
    steps: int
    accumulate: int  # micro-batches a step
    statistics: Statistics
    rounds: Rounds  # of stages by subspaces
    loop: Loop
    baseline_epochs: float  # passes of the naive alternative; 0 where not known

    # What a user need not choose.
    FIXED: ClassVar = {
        "compute.unroll": 0,
        "objective.softness": 8.0,  # nats
        "optimizer.final": 0.0,  # of the peak
        "loop.log_every": 1,  # steps
        "loop.evaluate_questions": 200,  # a group, during the run
        "loop.keep": 2,  # checkpoints
    }

    def __post_init__(self):
        if self.reference not in ("live", "cached"):
            raise ValueError(
                f"config.reference={self.reference!r}; use 'live' or 'cached'."
            )
        at_least(1, self, "config", "steps", "accumulate")
        at_least(0, self, "config", "baseline_epochs")
        for stage in self.stages:
            if not stage.direct:
                methods.parse(stage.method, self.objective)  # raises
                continue
            self.how(stage)  # raises
            [role] = stage.roles
            if not self.data.rows[role]:
                raise ValueError(
                    f"config.method={self.method!r} changes the role {role}, and "
                    f"config.data.rows_{role}=0 leaves it out; give it rows."
                )
            if self.lora.rank:
                raise ValueError(
                    f"config.lora.rank={self.lora.rank}: a stage by subspaces changes "
                    "the weights themselves; use config.lora.rank=0 with it."
                )
        if self.lora.rank:
            self.lora.check_optimizer(self.optimizer)

    @property
    def loss(self) -> Loss:
        """What a step minimises; of several stages, in the first that descends.

        Raises:
          ValueError: see `methods.parse`.
        """
        names = [stage.method for stage in self.stages if not stage.direct]
        name = names[0] if names else "surgery"
        return Loss(self.objective, methods.parse(name, self.objective))

    def trainable(self, config: ModelConfig) -> Trainable:
        """The matrices of a model that move, or whose low-rank deltas do.

        Raises:
          ValueError: see `trainable.resolve`.
        """
        return resolve(
            config,
            self.optimizer.first_layer,
            self.lora.matrices if self.lora.rank else self.optimizer.matrices,
            rank=self.lora.rank,
            only_matrices=self.optimizer.preconditioned,
        )

    @property
    def stages(self) -> list[StageMethod]:
        """The stages of `method`.

        Raises:
          ValueError: see `stages.parse_stages`.
        """
        return parse_stages(self.method)

    @property
    def needs_pairs(self) -> bool:
        """Whether a method compares unlearn texts with alternatives."""
        descends = (stage.method for stage in self.stages if not stage.direct)
        parsed = (methods.parse(name, self.objective) for name in descends)
        return any(method.needs.pairs for method in parsed)

    @property
    def readers_of_retained(self) -> list[str]:
        """The fields that read retained text, as `role_texts.read` takes them."""
        found = []
        descends = any(not stage.direct for stage in self.stages)
        if descends and self.optimizer.preconditioned:
            found.append(
                f"config.optimizer.name={self.optimizer.name}, config.optimizer.name="
                "adamw with a rate for it"
            )
        if self.data.surprise:
            found.append(
                f"config.data.surprise={self.data.surprise:g}, config.data.surprise=0"
            )
        return found

    def moving(self, config: ModelConfig) -> Trainable | None:
        """The model's own parameters that the run changes; None if it changes none.

        Raises:
          ValueError: see `trainable`.
        """
        parts = [
            self.how(stage).trainable(config)
            if stage.direct
            else self.trainable(config)
            for stage in self.stages
        ]
        if self.lora.rank:
            return None
        if any(not part.matrices for part in parts):
            return ALL
        first = min(part.first_layer for part in parts)
        names = [n for n in MATRICES if any(n in part.matrices for part in parts)]
        return Trainable(first, tuple(names))

    def how(self, stage: StageMethod) -> How:
        """The settings that a stage by subspaces reads."""
        assert stage.direct, "a stage by subspaces"
        rows = self.data.rows
        return How(
            method=stage.direct,
            rounds=self.rounds,
            lora=FULL,
            adapter="",
            learning_rate=0.0,
            context=self.data.context,
            rows=rows[stage.roles[0]],
            rows_retained=rows["retain"],
            records=RECORDS,
            cache="",
            seed=self.seed,
            loop=self.loop,
        )
