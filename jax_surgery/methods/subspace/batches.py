# SPDX-License-Identifier: Apache-2.0
"""A stage's batches, with weights of their tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.targets import target_text
from jax_surgery.train import devices


class WeightedBatches:
    """A stage's batches: the weight of each token, and the log-odds it is to reach."""

    def __init__(
        self,
        stage: Stage,
        targets: list[str],
        *,
        learn: bool,
        guarded: bool,
        half: int | None = None,
        seed: int = 0,
        lost: Sequence[int] | np.ndarray = (),
    ):
        """Packs targets' and retained groups' text.

        Args:
          stage: whose retained groups are guarded.
          targets: groups whose text has weights.
          learn: whether it is to be learned; else it is to be unlearned.
          guarded: whether retained text is raised where it falls.
          half: which half of the targets' text, 0 or 1; None takes all.
          seed: of the order, beside the run's seed.
          lost: places in `stage.retained_text` of what is guarded as much as all else.
        """
        how = stage.work.how
        self._seed = how.seed + seed
        self._role = "update" if learn else "unlearn"
        self._targets = target_text(stage.work, targets, learn=learn, half=half)
        packer = self._targets.packer
        self.packers = {self._role: packer}
        wanted = {self._role: how.tasks.rows}
        self._guard = how.subspace.guard if guarded and stage.retained else 0.0
        if self._guard:
            retained, self._guard_log_odds = stage.retained_text.guarded(lost)
            self.packers["retain"] = retained
            wanted["retain"] = how.tasks.rows_retained
            self._guard *= packer.learned.mean() / retained.learned.mean()
            self._guard *= wanted[self._role] / wanted["retain"]
        self.wanted = wanted
        self.rows: RoleRows = devices.role_rows(wanted)

    def deactivate(self) -> None:
        """Sets the weight of the targets' tokens to 0 from now on."""
        nothing = np.zeros_like(self._targets.weights)
        self._targets = dataclasses.replace(self._targets, weights=nothing)

    def stream(self) -> BatchStream:
        """Endless batches of both."""
        return devices.batch_stream(self.packers, self.wanted, self.rows, self._seed)

    def batch(self, batch: Batch) -> Batch:
        """A batch of the stream on the devices, with what the subspace method reads."""
        index_BT = batch.token_index_BT
        target_B = self.rows.holds(self._role, len(index_BT))
        weights_BT = np.full(index_BT.shape, -self._guard, np.float32)
        log_odds_BT = np.zeros(index_BT.shape, np.float32)
        weights_BT[target_B] = self._targets.weights[index_BT[target_B]]
        log_odds_BT[target_B] = self._targets.log_odds[index_BT[target_B]]
        if self._guard:
            log_odds_BT[~target_B] = self._guard_log_odds[index_BT[~target_B]]
        weighted = batch.text.replace(
            token_weights_BT=weights_BT * batch.weights_BT,
            target_log_odds_BT=log_odds_BT,
        )
        return weighted.place(self.rows.total)
