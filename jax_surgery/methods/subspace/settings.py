# SPDX-License-Identifier: Apache-2.0
"""Settings of the runs that remove and add tasks (see `surgery.subspace`)."""

import dataclasses

from jax_surgery.methods.subspace import identify
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import BLOCK_OF, Trainable, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.optim.precondition import discriminate
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop_settings import Loop, at_least, positive_ridge


def _choice(value: str, allowed: tuple[str, ...], path: str) -> None:
    if value not in allowed:
        raise ValueError(f"{path}={value!r}; choose one of {', '.join(allowed)}.")


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Which tasks there are, and which of them go or come; all others are kept."""

    source: str = "suite"  # or a JSONL file of tasks (see data/tasks.py)
    targets: str = ""  # "a,b" together; "a;b" one after the other
    similar: str = "family"  # to the targets; "overlap", or names
    overlap: float = 0.38  # of "overlap": the least mean squared cosine of angles
    known: float = 0.1  # tasks whose score beyond chance is below are not kept
    records: int = 1000  # of each kept task that are read for it; 0 reads all
    context: int = 128  # tokens a row
    rows: int = 4  # of targets' text in a round
    rows_kept: int = 8  # of kept text in a round; 0 with discriminate.guard=0

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

    loss: str = "margin"  # or "cross_entropy"
    temperature: float = 4.0  # of the logits ("cross_entropy")
    bound: float = -3.0  # nats of log-odds that forgetting ends at, without a chance
    learned: float = 6.0  # nats of log-odds that learning ends at
    overwrite: float = (
        0.0  # push of other texts' answers in the place of forgotten ones
    )
    order: str = "joint"  # of layers; or "cyclic", "first_to_last"
    start: str = "pretrained"  # or "random" (the paper's figure; mode "one_shot")
    adam: float = 0.0  # rate of Adam's steps, as the paper trains; 0 takes plain ones

    def __post_init__(self):
        self.task_loss  # noqa: B018 (raises)
        _choice(self.order, identify.ORDERS, "config.identify.order")
        _choice(self.start, ("pretrained", "random"), "config.identify.start")
        at_least(0, self, "config.identify", "adam", "overwrite")

    @property
    def task_loss(self) -> identify.TaskLoss:
        """What is pushed."""
        return identify.TaskLoss(self.loss, self.temperature)


@dataclasses.dataclass(frozen=True)
class Discriminate:
    """What of it the kept tasks do not feel."""

    method: str = "ridge"  # or "gram_schmidt", "none"
    ridge: float = 1e-3  # relative to the mean eigenvalue
    similar_weight: float = 5.0  # of similar tasks' text, beside the others'
    refresh: int = 6  # rounds between recomputations; 0 for once
    rank: int = 16  # singular vectors of each task ("gram_schmidt")
    guard: float = 1.0  # push of kept tokens below guard_bound; 0 is none
    guard_bound: float = 4.0  # nats of log-odds, or where the token was if lower

    def __post_init__(self):
        _choice(self.method, discriminate.METHODS, "config.discriminate.method")
        at_least(0, self, "config.discriminate", "similar_weight", "refresh", "guard")
        at_least(1, self, "config.discriminate", "rank")
        positive_ridge(self.ridge, "config.discriminate")


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How the task is taken out or put in."""

    mode: str = "rounds"  # or "one_shot": identify, discriminate and subtract once
    number: int = 150  # at most
    step: float = 5e-3  # of the norm of the moving matrices
    schedule: str = "constant"  # of the step; or "cosine", to 0
    stop: float = 0.99  # removed, or accuracy of what is learned; 0 takes all rounds
    mend: int = 8  # passes at most that give back kept answers; 0 is none
    mend_rounds: int = 4  # of a pass
    rank: int = 0  # of the change; 0 keeps all
    cut_every: int = 3  # rounds between cuts to the rank; 0 cuts at the end alone
    alpha: float = 1.0  # of T' in the end; 0 seeks the smallest that reaches stop
    first_layer: int = 0  # layers before it stay; negative counts from the end
    matrices: str = ",".join(BLOCK_OF)  # that move

    def __post_init__(self):
        _choice(self.mode, ("rounds", "one_shot"), "config.rounds.mode")
        _choice(self.schedule, ("constant", "cosine"), "config.rounds.schedule")
        at_least(1, self, "config.rounds", "number", "mend_rounds")
        at_least(0, self, "config.rounds", "stop", "mend", "rank", "cut_every", "alpha")
        if self.step <= 0:
            raise ValueError(f"config.rounds.step={self.step} must be positive.")


@dataclasses.dataclass(frozen=True)
class Harden:
    """Removal from copies that have relearned the targets (see `harden`)."""

    copies: int = 0  # one after another, each on the other half of the text; 0: none
    steps: int = 10  # of Adam, that a copy relearns
    rate: float = 3e-4  # of Adam
    rounds: int = 6  # of removal from each copy
    statistics: str = "model"  # whose inputs the ridge reads; or "copy"

    def __post_init__(self):
        at_least(0, self, "config.harden", "copies")
        at_least(1, self, "config.harden", "steps", "rounds")
        _choice(self.statistics, ("model", "copy"), "config.harden.statistics")
        if self.rate <= 0:
            raise ValueError(f"config.harden.rate={self.rate} must be positive.")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of the kept tasks' inputs, for the ridge."""

    cache: str = ""  # folder that runs share; "" is the workdir's
    save_every: int = 200  # batches between saves of what is summed so far

    def __post_init__(self):
        at_least(1, self, "config.statistics", "save_every")


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows besides the scores."""

    alphas: str = "0,0.5,0.75,0.9,1,1.1,1.25,1.5,2"  # of the curves; "" leaves them out
    records: int = 200  # of each task along the curves
    angles: int = 8  # singular vectors of each task; 0 leaves the angles out

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

    run: str = "unlearn"
    model: str = "suite"  # "suite", "embedded", a directory, or a hub name
    seed: int = 0
    tasks: Tasks = dataclasses.field(default_factory=Tasks)
    identify: Identify = dataclasses.field(default_factory=Identify)
    discriminate: Discriminate = dataclasses.field(default_factory=Discriminate)
    rounds: Rounds = dataclasses.field(default_factory=Rounds)
    harden: Harden = dataclasses.field(default_factory=Harden)
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    lora: LowRank = dataclasses.field(default_factory=LowRank)
    adapter: str = ""  # directory of an adapter in PEFT's format to go on from
    optimizer: OptimizerChoice = dataclasses.field(default_factory=OptimizerChoice)
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    compute: Compute = dataclasses.field(default_factory=Compute)
    report: Report = dataclasses.field(default_factory=Report)
    loop: Loop = dataclasses.field(default_factory=Loop)

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
          ValueError: see `trainable.resolve` and `LowRank.trainable`.
        """
        if self.lora.rank:
            return self.lora.trainable(config, self.optimizer.first_layer)
        found = resolve(config, self.rounds.first_layer, self.rounds.matrices)
        if not found.matrices:
            raise ValueError(
                "config.rounds.matrices='' names no matrix; choose from "
                f"{', '.join(BLOCK_OF)}."
            )
        return found
