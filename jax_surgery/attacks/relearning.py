# SPDX-License-Identifier: Apache-2.0
"""Relearning: text is trained again, and brings back what was removed.

A model that only hides knowledge shows it again after a few steps of training on a part of
it, on text of the same kind, or on any text (Lynch et al. 2024, arXiv 2402.16835; Hu et
al. 2024, arXiv 2406.13356; Deeb and Roger 2024, arXiv 2410.08827). A model that never
knew has to learn what is asked, which that text does not contain. How much comes back
depends on the rate, so the worst of a grid counts (see `attacks.parse_all`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.attacks.base import Attacked, Budget, Target, Watch
from jax_surgery.config import positive
from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document, encode
from jax_surgery.models import flops
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import ALL, resolve
from jax_surgery.optim import lora
from jax_surgery.optim.lora import FULL, LowRank
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import finetune

On = Literal["half", "all", "related", "retained"]
TEXTS: dict[On, Callable[[Target], tuple[Record, ...]]] = {
    "half": lambda target: target.records,
    "all": lambda target: target.removed,
    "related": lambda target: target.related(),
    "retained": lambda target: target.retained(),
}
# What gives an adversary such text.
GIVE = {
    "half": "config.data.relearn",
    "all": "config.data.relearn",
    "related": "config.data.related (of a benchmark: groups of the same family)",
    "retained": "config.data.retained (of a benchmark: groups to retain)",
}


@dataclasses.dataclass(frozen=True)
class Relearning:
    """Steps of an optimizer on the cross entropy of the adversary's text.

    Attributes:
      learning_rate: of the optimizer.
      steps: at most.
      texts: drawn for each step, at most.
      rows: of a batch, each a context of tokens; texts that do not fit are left out. 0
        takes as many as texts, which holds them all.
      on: "half" of what was removed, which is asked about the other half; "all" of it,
        with what is asked; "related" or "retained" text alone.
      optimizer: "adam", "lion", or "sgd" (momentum 0.9).
      rank: of low-rank deltas of all matrices, in the place of every parameter; 0: none.
      passes: over the text, in the place of steps; 0 takes steps.
      schedule: of the rate: "constant", or "linear" to 0.
      seed: of the draws, added to the run's.
    """

    learning_rate: float = 3e-4
    steps: int = 80
    texts: int = 64
    rows: int = 10
    on: On = "half"
    optimizer: Literal["adam", "lion", "sgd"] = "adam"
    rank: int = 0
    passes: int = 0
    schedule: Literal["constant", "linear"] = "constant"
    seed: int = 0

    def __post_init__(self):
        for name in ("learning_rate", "steps", "texts"):
            positive(getattr(self, name), f"relearning:{name}")
        for name in ("rows", "rank", "passes", "seed"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"relearning:{name}={value}; use 0 or more.")

    @property
    def low_rank(self) -> LowRank:
        """The deltas that move, alpha twice the rank; `FULL` where all moves."""
        return LowRank(self.rank, 2.0 * self.rank) if self.rank else FULL

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        if TEXTS[self.on](target):
            return ""
        return f"relearning:on={self.on} needs such text, and there is none: give {GIVE[self.on]}."

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """Trains a copy of the model; see `attacks.base.Attack`.

        Raises:
          ValueError: there is no such text.
        """
        if missing := self.lacks(target):
            raise ValueError(missing)
        documents = encode(TEXTS[self.on](target), model.tokenizer, target.context)
        rows = meshes.round_rows(self.rows or self.texts)
        moving, whole = self._moving(model, seed)
        pass_flops = self._flops(model, rows, target.context)
        state, spent = finetune.init(self.optimizer, moving), Budget()
        watch(spent, model)
        batches = self._batches(documents, np.random.default_rng(seed + self.seed))
        steps = self._steps(len(documents))
        for number, chosen in zip(range(steps), batches, strict=False):
            batch, tokens = finetune.text_batch(chosen, target.context, rows)
            cost = Budget(1, tokens, pass_flops)
            if not budget.allows(spent.plus(cost)):
                break
            left = 1 - number / steps if self.schedule == "linear" else 1.0
            moving, state = finetune.step(
                *(model.config, model.compute, self.optimizer, self.low_rank),
                *(model.params if self.rank else None, moving, state, batch),
                self.learning_rate * left,
            )
            spent = spent.plus(cost)
            watch(spent, model.with_params(whole(moving)))
        return Attacked(model.with_params(whole(moving)), target.probes, spent)

    def _moving(self, model: Model, seed: int) -> tuple[Any, Callable[[Any], Any]]:
        """What moves, and what makes parameters of it."""
        if not self.rank:
            # A step donates its arguments.
            return jax.tree.map(jnp.copy, model.params), lambda moving: moving
        low_rank = self.low_rank
        factors = lora.init_factors(model.config, low_rank, seed + self.seed)
        attach = functools.partial(lora.attach, model.params, low_rank=low_rank)
        return factors, attach

    def _flops(self, model: Model, rows: int, context: int) -> float:
        """FLOPs of a step."""
        moves, config = ALL, model.config
        if self.rank:
            named = self.low_rank.matrices
            moves = resolve(config, 0, named, section="config.lora", rank=self.rank)
        return flops.training_flops(config, rows * context, context, moves, self.rank)

    def _steps(self, documents: int) -> int:
        return self.passes * -(-documents // self.texts) if self.passes else self.steps

    def _batches(
        self, documents: Sequence[Document], rng: np.random.Generator
    ) -> Iterator[list[Document]]:
        """Texts of each step: drawn anew, or where passes are made each once a pass."""
        while True:
            picks = rng.permutation(len(documents))
            last = len(picks) if self.passes else min(len(picks), self.texts)
            for start in range(0, last, self.texts):
                yield [documents[i] for i in picks[start : start + self.texts]]
