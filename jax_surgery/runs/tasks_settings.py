# SPDX-License-Identifier: Apache-2.0
"""Settings of the runs "unlearn" and "learn", on a tasks file."""

import dataclasses
from typing import ClassVar

from jax_surgery import plugins
from jax_surgery.config import at_least
from jax_surgery.methods.subspace.settings import DIRECT_METHODS, How, Rounds, Subspace
from jax_surgery.models.compute import Compute
from jax_surgery.optim.lora import LowRank
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train.loop_settings import Loop


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Which tasks there are, and which of them are targets; all others are retained."""

    source: str  # "suite", or a JSONL file of tasks (see benchmarks/tasks.py)
    targets: str  # "a,b" together; "a;b" one after the other
    similar: str  # to the targets: "family", "overlap", or names
    records: int  # of each retained task that are read for it; 0 reads all
    context: int  # tokens a row
    rows: int  # of targets' text in a round
    rows_retained: int  # of retained text in a round; 0 with the method's guard=0

    def __post_init__(self):
        at_least(0, self, "config.tasks", "records", "rows_retained")
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
class Statistics:
    """Second moments of the retained tasks' inputs, for the ridge."""

    cache: str  # folder that runs share; "" is the workdir's


@dataclasses.dataclass(frozen=True)
class Adapter:
    """How an adapter moves: by AdamW at a constant rate."""

    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows besides the scores."""

    alphas: str  # of the curves; "" leaves them out
    angles: int  # singular vectors of each task; 0 leaves the angles out

    def __post_init__(self):
        self.points  # noqa: B018 (raises)
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
class TasksSettings:
    """Removing or adding tasks (`run = "unlearn"` or `"learn"`)."""

    run: str
    model: str  # "suite", "embedded", a directory, or a hub name
    seed: int
    method: str  # "subspace" with its options, or "unlearn_paper"
    tasks: Tasks
    rounds: Rounds
    statistics: Statistics
    lora: LowRank  # low-rank adapters instead; rank 0 changes the weights themselves
    adapter: str  # directory of an adapter in PEFT's format to go on from
    optimizer: Adapter  # of adapters
    mesh: MeshShape
    compute: Compute
    report: Report
    loop: Loop

    # Each round is logged; goals are measured where the method asks for them.
    FIXED: ClassVar = {
        "compute.unroll": 0,
        "loop.log_every": 1,
        "loop.evaluate_every": 0,
        "loop.evaluate_questions": 200,
        "loop.keep": 1,
    }

    def __post_init__(self):
        self.how()  # raises
        if self.direct_method.harden and self.learns:
            raise ValueError(
                f"config.method=subspace:harden={self.direct_method.harden} is of what "
                "is unlearned; use harden=0 to learn."
            )
        if self.tasks.similar == "overlap" and not self.report.angles:
            raise ValueError(
                "config.tasks.similar='overlap' is measured by config.report.angles "
                "singular vectors of each task; use 8, say, not 0."
            )

    @property
    def direct_method(self) -> Subspace:
        """The method, parsed.

        Raises:
          ValueError: no such method or option, or a wrong value.
        """
        return plugins.parse(self.method, DIRECT_METHODS, "config.method")

    @property
    def learns(self) -> bool:
        """Whether the targets are added."""
        return self.run == "learn"

    def how(self) -> How:
        """What the stages read."""
        tasks = self.tasks
        return How(
            method=self.direct_method,
            rounds=self.rounds,
            lora=self.lora,
            adapter=self.adapter,
            learning_rate=self.optimizer.learning_rate,
            context=tasks.context,
            rows=tasks.rows,
            rows_retained=tasks.rows_retained,
            records=tasks.records,
            cache=self.statistics.cache,
            seed=self.seed,
            loop=self.loop,
        )
