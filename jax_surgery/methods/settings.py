# SPDX-License-Identifier: Apache-2.0
"""Settings of a surgery: what its method reads, and the texts of its roles."""

import dataclasses

from jax_surgery import methods
from jax_surgery.config import at_least, positive_ridge
from jax_surgery.data.roles import RoleData
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop_settings import Loop


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of kept text, for the preconditioner."""

    sources: str  # what must stay; "" takes data.retain
    tokens: int  # read for them; 0 reads all
    ridge: float  # relative to the mean eigenvalue
    refresh: int  # steps between recomputations; 0 for once

    def __post_init__(self):
        at_least(0, self, "config.statistics", "tokens", "refresh")
        positive_ridge(self.ridge, "config.statistics")


@dataclasses.dataclass(frozen=True)
class SurgerySettings:
    """A surgery run (`run = "surgery"`)."""

    run: str
    model: str  # "embedded", a directory, or a hub name
    seed: int
    method: str  # a name in `methods.METHODS`, with options: "npo:beta=0.2"
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
    loop: Loop
    baseline_epochs: float  # passes of the naive alternative, for the cost

    def __post_init__(self):
        if self.reference not in ("live", "cached"):
            raise ValueError(
                f"config.reference={self.reference!r}; use 'live' or 'cached'."
            )
        at_least(1, self, "config", "steps", "accumulate")
        _ = self.loss  # names mistakes in `method` before anything is loaded
        if self.lora.rank:
            self.lora.check_optimizer(self.optimizer)

    @property
    def loss(self) -> Loss:
        """What a step minimises.

        Raises:
          ValueError: see `methods.parse`.
        """
        return Loss(self.objective, methods.parse(self.method, self.objective))

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
