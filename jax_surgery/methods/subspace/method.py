# SPDX-License-Identifier: Apache-2.0
"""The subspace method: its options.

`config.method` names it with its options: "subspace", "subspace:guard=0,mend=0". What
the options are for comparison with the paper (arXiv 2408.04140), and what each of them
is worth, stands in results/subspace_table.md.
"""

import dataclasses
from typing import Literal

from jax_surgery.config import positive
from jax_surgery.methods.base import Method

PATH = "config.method=subspace"
REFRESH, MEND = 6, 8  # rounds, and passes, where they are left open


@dataclasses.dataclass(frozen=True)
class Subspace(Method):
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
      refresh: rounds between recomputations of what is known of retained text; 0: once;
        -1: once where a model wrote some of it, which is long, and `REFRESH` elsewhere.
      guard: weight of retained tokens that fell; 0 guards nothing.
      mend: passes at most that restore lost retained answers; 0 restores nothing; -1:
        none where a model wrote retained text, whose wording is neither right nor wrong,
        and `MEND` elsewhere.
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
    refresh: int = -1
    guard: float = 1.0
    mend: int = -1
    overwrite: float = 0.0
    harden: int = 0
    harden_rate: float = 3e-4
    harden_statistics: Literal["model", "copy"] = "model"
    one_shot: bool = False
    order: Literal["joint", "cyclic", "first_to_last"] = "joint"
    random_start: bool = False
    adam: float = 0.0

    def __post_init__(self):
        for name in ("refresh", "mend"):
            if (value := getattr(self, name)) < -1:
                raise ValueError(f"{PATH}:{name}={value}; use -1 or more.")
        numbers = ("guard", "overwrite", "harden", "adam")
        for name in numbers:
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{PATH}:{name}={value}; use 0 or more.")
        for name in ("temperature", "ridge", "harden_rate"):
            positive(getattr(self, name), f"{PATH}:{name}")
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
