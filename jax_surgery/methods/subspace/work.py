# SPDX-License-Identifier: Apache-2.0
"""What the subspace method works on: a model, groups of text, and what it reads."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from jax_surgery.benchmarks.tasks import GroupText
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.subspace.settings import TasksSettings
from jax_surgery.metrics.base import Each
from jax_surgery.metrics.task_scores import Score, scored
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.linalg import svd
from jax_surgery.parallel import progress
from jax_surgery.train import checksums

Scores = dict[str, Score]
# Least score beyond chance, as a share of the most there is, of a group that is known.
KNOWN = 0.1
WIDE_RANK = 64  # of a change of matrices wider than `svd.EXACT_WIDTH`


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What a run works on.

    Attributes:
      model: as it is before the run; its parameters are never given up.
      texts: of every group, by name.
      how: the settings.
      written: names of the groups that the model wrote by itself (see `measured`), which
        every stage retains.
      beginning: tokens that the texts' rows hold once (see `Packer`); None shares none.
      RECORDS: of a group that statistics and goals read at most, drawn.
    """

    RECORDS: ClassVar[int] = 1000

    model: Model
    texts: dict[str, GroupText]
    how: TasksSettings
    written: tuple[str, ...] = ()
    beginning: np.ndarray | None = None

    @functools.cached_property
    def trainable(self) -> Trainable:
        """What of the model moves."""
        return self.how.trainable(self.model.config)

    @functools.cached_property
    def rank(self) -> int:
        """Of the change; 0 keeps all of it. Where the settings leave it open all of narrow
        matrices, whose singular vectors are computed exactly, and `WIDE_RANK` of wide."""
        if (chosen := self.how.rounds.rank) >= 0:
            return chosen
        return WIDE_RANK if self.widest > svd.EXACT_WIDTH else 0

    @property
    def widest(self) -> int:
        """The smaller side of the widest matrices."""
        config = self.model.config
        return min(config.hidden_size, config.intermediate_size)

    @functools.cached_property
    def model_hash(self) -> str:
        """`checksums.of_model` of the model; every process must ask for it."""
        return checksums.of_model(self.model.params, self.model.config)

    def scores(
        self, params: Any, names: Iterable[str] = (), limit: int | None = None
    ) -> Scores:
        """What parameters score on groups; all of them where none is named."""
        found = self.scored(params, names, limit)
        return {name: whole for name, (whole, _) in found.items()}

    def scored(
        self, params: Any, names: Iterable[str] = (), limit: int | None = None
    ) -> dict[str, tuple[Score, Each | None]]:
        """`scores`, each with what every text or question of the group scored."""
        model = self.model.with_params(params)
        return {
            name: scored(model, self.texts[name].probe, limit)
            for name in progress.Bar(
                list(names or self.texts), title="scoring tasks", unit="task"
            )
        }

    def documents(self, name: str) -> Sequence[Document]:
        """A group's text, or `RECORDS` of it drawn with the run's seed."""
        found = self.texts[name].documents
        return [found[i] for i in self._drawn(len(found))]

    def ends(self, name: str) -> Sequence[np.ndarray]:
        """Where removing the tokens of `documents` ends, of each; () at chance."""
        found = self.texts[name].ends
        return [found[i] for i in self._drawn(len(found))]

    def _drawn(self, count: int) -> Sequence[int]:
        """Places of `RECORDS` of so many, drawn with the run's seed."""
        if count <= self.RECORDS:
            return range(count)
        rng = np.random.default_rng((self.how.seed, count))
        return np.sort(rng.permutation(count)[: self.RECORDS]).tolist()

    def packer(self, documents: Sequence[Document]) -> Packer:
        """Documents as rows of the run's."""
        context = self.how.tasks.context
        return Packer(documents, context, "tokens", beginning=self.beginning)


def is_known(score: Score) -> bool:
    """Whether a model knows a group: `KNOWN` of what there is beyond chance."""
    return score.value - score.chance > KNOWN * (1 - score.chance)


def retained_groups(
    before: Scores,
    stages: Sequence[Sequence[str]],
    stage: int,
    *,
    learns: bool,
    measured: Collection[str] = (),
) -> list[str]:
    """The groups that a stage retains: known before, and no target.

    Of what is learned, the targets of earlier stages are retained too.

    Args:
      before: scores before the run.
      stages: names of the targets of each.
      stage: which of them.
      learns: whether the targets are added.
      measured: targets that were found to be known in another way than by their score.

    Raises:
      ValueError: a target to unlearn that is not known.
    """
    known = [name for name, score in before.items() if is_known(score)]
    targets = [name for names in stages for name in names]
    if not learns:
        for name in targets:
            if name not in known and name not in measured:
                now = before[name]
                raise ValueError(
                    f"the model does not know the target {name!r}: it scores "
                    f"{now.value:.3f} where chance is {now.chance:.3f}, and a group is "
                    f"known from {KNOWN:.0%} of what there is beyond chance. There is "
                    "nothing to remove."
                )
    earlier = [name for names in stages[:stage] for name in names]
    retained = [name for name in known if name not in targets]
    return retained + earlier if learns else retained
