# SPDX-License-Identifier: Apache-2.0
"""The subspace method: its options, and what its stages read of a run's settings.

`config.method` names it with its options: "subspace", "subspace:guard=0,mend=0". What
the options are for comparison with the paper (arXiv 2408.04140), and what each of them
is worth, stands in results/subspace_table.md.
"""

import dataclasses
from typing import Literal

from jax_surgery.config import at_least, positive
from jax_surgery.methods.subspace import identify
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable, resolve
from jax_surgery.optim.lora import LowRank
from jax_surgery.train.loop_settings import Loop

PATH = "config.method=subspace"


@dataclasses.dataclass(frozen=True)
class Subspace:
    """Removes or adds groups of text in rounds; a round moves a little, then identifies
    the task again in the weights that it left.

    Attributes:
      loss: what a token's weight moves, see `identify.TaskLoss`; learning takes
        "cross_entropy".
      temperature: of the logits ("cross_entropy").
      cosine: whether the step falls to 0 along a half cosine.
      discriminate: what retained text does not feel: "ridge", "gram_schmidt" (the
        paper's) or "none".
      ridge: relative to the mean eigenvalue of the retained inputs' second moments.
      refresh: rounds between recomputations of what is known of retained text; 0: once.
      guard: weight of retained tokens that fell; 0 guards nothing.
      mend: passes at most that restore lost retained answers; 0 restores nothing.
      overwrite: weight of other texts' answers in the place of unlearned ones; 0 writes
        nothing. With 1 facts come back far less when some of them are trained again.
      harden: copies that relearn the targets, from which they are removed too; 0 is
        none, 6 lasts long.
      harden_rate: of Adam, with which a copy relearns.
      harden_statistics: whose inputs the ridge reads then: "model" or "copy".
      one_shot: identify, discriminate and subtract once, as the paper does.
      order: of the layers, see `identify.layer_share`.
      random_start: whether the task is identified in random weights (the paper's
        figure; with `one_shot`).
      adam: rate of Adam's steps, as the paper trains; 0 takes plain gradients.
    """

    loss: Literal["margin", "cross_entropy"] = "margin"
    temperature: float = 4.0
    cosine: bool = False
    discriminate: Literal["ridge", "gram_schmidt", "none"] = "ridge"
    ridge: float = 1e-3
    refresh: int = 6
    guard: float = 1.0
    mend: int = 8
    overwrite: float = 0.0
    harden: int = 0
    harden_rate: float = 3e-4
    harden_statistics: Literal["model", "copy"] = "model"
    one_shot: bool = False
    order: Literal["joint", "cyclic", "first_to_last"] = "joint"
    random_start: bool = False
    adam: float = 0.0

    def __post_init__(self):
        self.task_loss  # noqa: B018 (raises)
        numbers = ("refresh", "guard", "mend", "overwrite", "harden", "adam")
        for name in numbers:
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{PATH}:{name}={value}; use 0 or more.")
        positive(self.ridge, f"{PATH}:ridge")
        positive(self.harden_rate, f"{PATH}:harden_rate")
        if self.random_start and not self.one_shot:
            raise ValueError(
                f"{PATH}:random_start=True identifies in weights that are not the "
                "model's, which only one_shot=True can subtract."
            )
        if self.harden and self.one_shot:
            raise ValueError(
                f"{PATH}:harden={self.harden} removes in rounds; use harden=0 with "
                "one_shot=True."
            )

    @property
    def task_loss(self) -> identify.TaskLoss:
        """What token weights move."""
        return identify.TaskLoss(self.loss, self.temperature)


@dataclasses.dataclass(frozen=True)
class UnlearnPaper(Subspace):
    """UNLEARN as its paper's figure shows it, to compare with. It does not work: random
    weights have no basis in common with the model's."""

    loss: Literal["margin", "cross_entropy"] = "cross_entropy"
    temperature: float = 1.0
    discriminate: Literal["ridge", "gram_schmidt", "none"] = "gram_schmidt"
    one_shot: bool = True
    order: Literal["joint", "cyclic", "first_to_last"] = "first_to_last"
    random_start: bool = True
    adam: float = 1e-3


DIRECT_METHODS = {"subspace": Subspace, "unlearn_paper": UnlearnPaper}


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How far a task is taken out or put in."""

    number: int  # at most
    step: float  # of the norm of the moving matrices
    stop: float  # removed, or accuracy of what is learned; 0 takes all rounds
    rank: int  # of the change; 0 keeps all
    alpha: float  # of T' in the end; 0 seeks the smallest that reaches stop
    first_layer: int  # layers before it are frozen; negative counts from the end
    matrices: str  # that move; "" is all

    def __post_init__(self):
        at_least(1, self, "config.rounds", "number")
        at_least(0, self, "config.rounds", "stop", "rank", "alpha")
        positive(self.step, "config.rounds.step")
        if not self.alpha and not self.stop:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop=0, which every one does; use a stop, 0.99 say."
            )


@dataclasses.dataclass(frozen=True)
class How:
    """All that the stages of a run read of its settings.

    Attributes:
      method, rounds, lora, loop, seed: see the settings of the run.
      adapter: directory of an adapter in PEFT's format to go on from, or "".
      learning_rate: of AdamW, which moves an adapter.
      context: tokens a row.
      rows, rows_retained: of the targets' and of the retained text in a round.
      records: of each retained group that are read for it; 0 reads all.
      cache: folder of statistics that runs share; "" is the stage's.
    """

    method: Subspace
    rounds: Rounds
    lora: LowRank
    adapter: str
    learning_rate: float
    context: int
    rows: int
    rows_retained: int
    records: int
    cache: str
    seed: int
    loop: Loop

    def __post_init__(self):
        rank, method = self.lora.rank, self.method
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
        if rank and self.rounds.alpha != 1:
            raise ValueError(
                f"config.rounds.alpha={self.rounds.alpha:g} would make model/ "
                f"another than the base with adapter/ (config.lora.rank={rank}); use 1."
            )
        if self.adapter and not rank:
            raise ValueError(
                f"config.adapter={self.adapter!r} needs config.lora.rank, the adapter's."
            )
        if method.harden and not self.rounds.alpha:
            raise ValueError(
                "config.rounds.alpha=0 seeks the smallest that reaches "
                "config.rounds.stop, and removal from copies goes beyond it: use 1, or "
                f"{PATH}:harden=0."
            )
        if not self.rows_retained and method.guard:
            raise ValueError(
                "without rows of retained text there is nothing to guard; give it rows, "
                f"or use {PATH}:guard=0."
            )

    def trainable(self, config: ModelConfig) -> Trainable:
        """What of a model moves.

        Raises:
          ValueError: see `trainable.resolve`.
        """
        rounds, rank = self.rounds, self.lora.rank
        return resolve(
            config,
            rounds.first_layer,
            self.lora.matrices if rank else rounds.matrices,
            section="config.rounds",
            rank=rank,
            only_matrices=True,
        )
