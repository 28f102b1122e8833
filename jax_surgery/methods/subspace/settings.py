# SPDX-License-Identifier: Apache-2.0
"""Settings of the runs that remove and add tasks (see `surgery.subspace`)."""

import dataclasses

from jax_surgery.config import at_least, choice, positive, positive_ridge
from jax_surgery.methods.subspace import identify
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.optim.precondition import discriminate
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop_settings import Loop


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Which tasks there are, and which of them go or come; all others are kept."""

    source: str  # or a JSONL file of tasks (see data/tasks.py)
    targets: str  # "a,b" together; "a;b" one after the other
    similar: str  # to the targets; "overlap", or names
    overlap: float  # of "overlap": the least mean squared cosine of angles
    known: float  # tasks whose score beyond chance is below are not kept
    records: int  # of each kept task that are read for it; 0 reads all
    context: int  # tokens a row
    rows: int  # of targets' text in a round
    rows_kept: int  # of kept text in a round; 0 with discriminate.guard=0

    def __post_init__(self):
        at_least(0, self, "config.tasks", "records", "rows_kept", "overlap", "known")
        at_least(1, self, "config.tasks", "rows")
        at_least(2, self, "config.tasks", "context")

    @property
    def stages(self) -> list[list[str]]:
        """Targets that are worked on together, one stage after another."""
        stages = [
            [name.strip() for name in stage.split(",") if name.strip()]
            for stage in self.targets.split(";")
        ]
        return [stage for stage in stages if stage]


@dataclasses.dataclass(frozen=True)
class Identify:
    """The task matrix."""

    loss: str  # or "cross_entropy"
    temperature: float  # of the logits ("cross_entropy")
    bound: float  # nats of log-odds that forgetting ends at, without a chance
    learned: float  # nats of log-odds that learning ends at
    overwrite: float  # push of other texts' answers in the place of forgotten ones
    order: str  # of layers; or "cyclic", "first_to_last"
    start: str  # or "random" (the paper's figure; mode "one_shot")
    adam: float  # rate of Adam's steps, as the paper trains; 0 takes plain ones

    def __post_init__(self):
        self.task_loss  # noqa: B018 (raises)
        choice(self.order, identify.ORDERS, "config.identify.order")
        choice(self.start, ("pretrained", "random"), "config.identify.start")
        at_least(0, self, "config.identify", "adam", "overwrite")

    @property
    def task_loss(self) -> identify.TaskLoss:
        """What is pushed."""
        return identify.TaskLoss(self.loss, self.temperature)


@dataclasses.dataclass(frozen=True)
class Discriminate:
    """What of it the kept tasks do not feel."""

    method: str  # or "gram_schmidt", "none"
    ridge: float  # relative to the mean eigenvalue
    similar_weight: float  # of similar tasks' text, beside the others'
    refresh: int  # rounds between recomputations; 0 for once
    rank: int  # singular vectors of each task ("gram_schmidt")
    guard: float  # push of kept tokens below guard_bound; 0 is none
    guard_bound: float  # nats of log-odds, or where the token was if lower

    def __post_init__(self):
        choice(self.method, discriminate.METHODS, "config.discriminate.method")
        at_least(0, self, "config.discriminate", "similar_weight", "refresh", "guard")
        at_least(1, self, "config.discriminate", "rank")
        positive_ridge(self.ridge, "config.discriminate")


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How the task is taken out or put in."""

    mode: str  # or "one_shot": identify, discriminate and subtract once
    number: int  # at most
    step: float  # of the norm of the moving matrices
    schedule: str  # of the step; or "cosine", to 0
    stop: float  # removed, or accuracy of what is learned; 0 takes all rounds
    mend: int  # passes at most that give back kept answers; 0 is none
    mend_rounds: int  # of a pass
    rank: int  # of the change; 0 keeps all
    cut_every: int  # rounds between cuts to the rank; 0 cuts at the end alone
    alpha: float  # of T' in the end; 0 seeks the smallest that reaches stop
    first_layer: int  # layers before it stay; negative counts from the end
    matrices: str  # that move; "" is all

    def __post_init__(self):
        choice(self.mode, ("rounds", "one_shot"), "config.rounds.mode")
        choice(self.schedule, ("constant", "cosine"), "config.rounds.schedule")
        at_least(1, self, "config.rounds", "number", "mend_rounds")
        at_least(0, self, "config.rounds", "stop", "mend", "rank", "cut_every", "alpha")
        positive(self.step, "config.rounds.step")


@dataclasses.dataclass(frozen=True)
class Harden:
    """Removal from copies that have relearned the targets (see `harden`)."""

    copies: int  # one after another, each on the other half of the text; 0: none
    steps: int  # of Adam, that a copy relearns
    rate: float  # of Adam
    rounds: int  # of removal from each copy
    statistics: str  # whose inputs the ridge reads; or "copy"

    def __post_init__(self):
        at_least(0, self, "config.harden", "copies")
        at_least(1, self, "config.harden", "steps", "rounds")
        choice(self.statistics, ("model", "copy"), "config.harden.statistics")
        positive(self.rate, "config.harden.rate")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of the kept tasks' inputs, for the ridge."""

    cache: str  # folder that runs share; "" is the workdir's
    save_every: int  # batches between saves of what is summed so far

    def __post_init__(self):
        at_least(1, self, "config.statistics", "save_every")


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows besides the scores."""

    alphas: str  # of the curves; "" leaves them out
    records: int  # of each task along the curves
    angles: int  # singular vectors of each task; 0 leaves the angles out

    def __post_init__(self):
        self.points  # noqa: B018 (raises)
        at_least(1, self, "config.report", "records")
        at_least(0, self, "config.report", "angles")

    @property
    def points(self) -> list[float]:
        """The alphas of the curves.

        Raises:
          ValueError: one that is no number.
        """
        try:
            return [float(a) for a in self.alphas.split(",") if a.strip()]
        except ValueError:
            raise ValueError(
                f"config.report.alphas={self.alphas!r}; use numbers, comma-separated."
            ) from None


@dataclasses.dataclass(frozen=True)
class SubspaceSettings:
    """Removing or adding tasks (`run = "unlearn"` or `"learn"`)."""

    run: str
    model: str  # "suite", "embedded", a directory, or a hub name
    seed: int
    tasks: Tasks
    identify: Identify
    discriminate: Discriminate
    rounds: Rounds
    harden: Harden
    statistics: Statistics
    lora: LowRank
    adapter: str  # directory of an adapter in PEFT's format to go on from
    optimizer: OptimizerChoice
    mesh: MeshShape
    compute: Compute
    report: Report
    loop: Loop

    def __post_init__(self):
        if self.lora.rank:
            self.lora.check_optimizer(self.optimizer)
            if self.rounds.mode == "one_shot":
                raise ValueError(
                    f"config.lora.rank={self.lora.rank} trains an adapter step by step: "
                    "use config.rounds.mode='rounds', or config.lora.rank=0."
                )
            if self.rounds.alpha != 1:
                raise ValueError(
                    f"config.rounds.alpha={self.rounds.alpha:g} would make model/ "
                    f"another than the base with adapter/ (config.lora.rank="
                    f"{self.lora.rank}); use 1."
                )
        subtracts = self.run == "unlearn" and self.rounds.mode == "rounds"
        if self.harden.copies and (not subtracts or self.lora.rank):
            raise ValueError(
                f"config.harden.copies={self.harden.copies} is of removals in rounds: "
                "use config.harden.copies=0 to learn, with LoRA and in one shot."
            )
        if self.harden.copies and not self.rounds.alpha:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop, and removal from copies goes beyond it: use 1, or "
                "config.harden.copies=0."
            )
        if self.adapter and not self.lora.rank:
            raise ValueError(
                f"config.adapter={self.adapter!r} needs config.lora.rank, the adapter's."
            )
        if self.identify.start == "random" and self.rounds.mode != "one_shot":
            raise ValueError(
                "config.identify.start='random' identifies in weights that are not the "
                "model's, which only config.rounds.mode='one_shot' can subtract."
            )
        if not self.rounds.alpha and not self.rounds.stop:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop=0, which every one does; use a stop, 0.99 say."
            )
        if self.tasks.similar == "overlap" and not self.report.angles:
            raise ValueError(
                "config.tasks.similar='overlap' is measured by config.report.angles "
                "singular vectors of each task; use 8, say, not 0."
            )
        if not self.tasks.rows_kept and self.discriminate.guard:
            raise ValueError(
                "config.tasks.rows_kept=0 leaves nothing to guard; use "
                "config.discriminate.guard=0 with it."
            )

    @property
    def learns(self) -> bool:
        """Whether the targets are added."""
        return self.run == "learn"

    def trainable(self, config: ModelConfig) -> Trainable:
        """What of a model moves.

        Raises:
          ValueError: see `trainable.resolve`.
        """
        if self.lora.rank:
            first = self.optimizer.first_layer
            return resolve(config, first, self.lora.matrices, rank=self.lora.rank)
        return resolve(
            config,
            self.rounds.first_layer,
            self.rounds.matrices,
            section="config.rounds",
            only_matrices=True,
        )
