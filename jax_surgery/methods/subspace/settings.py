# SPDX-License-Identifier: Apache-2.0
"""Settings of runs on tasks, which are what stages of the subspace method read."""

import dataclasses
import functools
from typing import ClassVar, Literal

from jax_surgery import methods
from jax_surgery.config import at_least, check_seed, names, positive
from jax_surgery.data.prompts import AsChat
from jax_surgery.methods.subspace.method import PATH, Subspace
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import Trainable, matrix_names, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop import Loop

Complete = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Which tasks there are, and which of them are targets; all others are retained."""

    source: str  # "suite", or a JSONL file of tasks (see benchmarks/tasks.py)
    targets: str  # "a,b" together; "a;b" one after the other
    similar: str  # to the targets: "family", "overlap", or names
    chat: AsChat  # questions in the model's chat template
    complete: Complete  # with what the model writes by itself, see `measured`
    context: int  # tokens a row
    rows: int  # of targets' text in a round
    rows_retained: int  # of retained text in a round; 0 with the method's guard=0

    def __post_init__(self):
        at_least(0, self, "config.tasks", "rows_retained")
        at_least(1, self, "config.tasks", "rows")
        at_least(2, self, "config.tasks", "context")

    @property
    def stages(self) -> list[list[str]]:
        """Targets that are worked on together, one stage after another."""
        stages = map(names, names(self.targets, ";"))
        return [stage for stage in stages if stage]


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How far a task is taken out or put in."""

    number: int  # at most
    step: float  # of the norm of the moving matrices
    stop: float  # removed, or accuracy of what is learned; 0 takes all rounds
    rank: int  # of the change; 0 keeps all, -1 chooses (see `Work.rank`)
    alpha: float  # of T' in the end; 0 seeks the smallest that reaches stop
    first_layer: int  # layers before it are frozen; negative counts from the end
    matrices: str  # that move; "" is all

    def __post_init__(self):
        at_least(1, self, "config.rounds", "number")
        at_least(0, self, "config.rounds", "stop", "alpha")
        at_least(-1, self, "config.rounds", "rank")
        positive(self.step, "config.rounds.step")
        if not self.alpha and not self.stop:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop=0, which every one does; use a stop, 0.99 say."
            )


@dataclasses.dataclass(frozen=True)
class TasksStatistics:
    """Second moments of the retained tasks' inputs, for the ridge."""

    cache: str  # folder that runs share; "" is the workdir's


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A low-rank adapter in place of the weights, of the matrices of `Rounds`."""

    rank: int  # 0 changes the weights themselves
    alpha: float  # deltas are multiplied by alpha / rank


@dataclasses.dataclass(frozen=True)
class AdapterSteps:
    """How an adapter moves: by Adam at a constant rate, its gradient clipped to norm 1."""

    learning_rate: float


@dataclasses.dataclass(frozen=True)
class TasksSettings:
    """Removing or adding tasks (`run = "unlearn"` or `"learn"`).

    A stage by subspaces of a run on texts by role is such a run too, on the role.
    """

    run: str
    model: str  # "suite", "embedded", a directory, or a hub name
    seed: int
    method: str  # "subspace" with its options, or "unlearn_paper"
    tasks: Tasks
    free_form: int  # prompts of a group that are asked; -1 chooses, 0 asks none
    attacks: str  # tried on a model from which tasks were removed; "" for none
    rounds: Rounds
    statistics: TasksStatistics
    lora: Adapter
    adapter: str  # directory of an adapter in PEFT's format to go on from
    optimizer: AdapterSteps
    mesh: MeshShape
    compute: Compute
    # "full" has the scores along alpha and the angles between tasks too, which take as
    # long as many evaluations.
    report: Literal["full", "scores"]
    loop: Loop

    # Each round is logged; goals are measured where the method asks for them.
    FIXED: ClassVar = {
        "compute": {"unroll": 0},
        "loop": {
            "log_every": 1,
            "evaluate_every": 0,
            "evaluate_questions": 200,
            "keep": 2,
        },
    }

    def __post_init__(self):
        check_seed(self.seed)
        at_least(-1, self, "config", "free_form")
        rank, alpha, method = self.low_rank.rank, self.rounds.alpha, self.subspace
        if rank and method.one_shot:
            raise ValueError(
                f"config.lora.rank={rank} trains an adapter step by step, and "
                "one_shot=True subtracts once; use config.lora.rank=0."
            )
        if rank and method.harden:
            raise ValueError(
                f"{PATH}:harden={method.harden} changes the weights themselves; use "
                "harden=0 with config.lora.rank."
            )
        if rank and alpha != 1:
            raise ValueError(
                f"config.rounds.alpha={alpha:g} would make model/ "
                f"another than the base with adapter/ (config.lora.rank={rank}); use 1."
            )
        if rank:
            positive(self.optimizer.learning_rate, "config.optimizer.learning_rate")
        if self.adapter and not rank:
            raise ValueError(
                f"config.adapter={self.adapter!r} needs config.lora.rank, the adapter's."
            )
        if method.harden and not alpha:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop, and removal from copies goes beyond it: use 1, or "
                f"{PATH}:harden=0."
            )
        if method.harden and self.learns:
            raise ValueError(
                f"{PATH}:harden={method.harden} is of what is unlearned; use harden=0 to "
                "learn."
            )
        if method.guard and not self.tasks.rows_retained:
            raise ValueError(
                "config.tasks.rows_retained=0 (of texts by role config.data.rows_retain): "
                "without rows of retained text there is nothing to guard; give it 1 or "
                f"more, or use {PATH}:guard=0."
            )

    @functools.cached_property
    def subspace(self) -> Subspace:
        """The method.

        Raises:
          ValueError: see `methods.parse`, or a method that descends.
        """
        found = methods.parse(self.method)
        if not isinstance(found, Subspace):
            raise ValueError(  # noqa: TRY004, of a config, which users read in one line
                f"config.method={self.method!r} descends along gradients on texts by "
                "role, as configs/surgery.py does; tasks are removed and added by "
                "'subspace'."
            )
        return found

    @property
    def learns(self) -> bool:
        """Whether the targets are added; else they are removed."""
        return self.run == "learn"

    @functools.cached_property
    def low_rank(self) -> LowRank:
        """The adapter, of rank 0 where the weights themselves change.

        Raises:
          ValueError: a matrix that no model has, or see `LowRank`.
        """
        moving = matrix_names(self.rounds.matrices, "config.rounds.matrices")
        return LowRank(self.lora.rank, self.lora.alpha, ",".join(moving or MATRICES))

    def trainable(self, config: ModelConfig) -> Trainable:
        """What of a model moves.

        Raises:
          ValueError: see `trainable.resolve`.
        """
        rounds = self.rounds
        return resolve(
            config,
            rounds.first_layer,
            rounds.matrices,
            section="config.rounds",
            rank=self.lora.rank,
            only_matrices=True,
        )
