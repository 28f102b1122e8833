# SPDX-License-Identifier: Apache-2.0
"""How far a model is from where forgetting and learning end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.automatic.never_knew import TokenEnds
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL, Matrices, Trainable
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import devices

ROWS = 4  # of each of the two roles that are measured, at most


def with_ends(batch: Batch, unlearn_B: np.ndarray, ends: TokenEnds) -> Batch:
    """Rows on the host with where their tokens end.

    Args:
      unlearn_B: which rows are to be unlearned; the others have none.
      ends: of each token of the unlearn texts, by place in their corpus.
    """
    index_BT = np.asarray(batch.token_index_BT)
    real_BT = unlearn_B[:, None] & (index_BT >= 0)
    of_BT = ends.at(np.where(real_BT, index_BT, 0))
    return batch.replace(
        target_log_odds_BT=np.where(real_BT, of_BT.log_odds, 0),
        drawn_BTK=np.where(real_BT[..., None], of_BT.drawn, 0),
        likelier_BTK=np.where(real_BT[..., None], of_BT.likelier, 0),
    )


class Ends:
    """The two terms on fixed rows of the texts to unlearn and to update."""

    def __init__(
        self,
        loss: Loss,
        packers: dict[str, Packer],
        ends: TokenEnds,
        config: ModelConfig,
        compute: Compute,
        seed: int,
        trainable: Trainable = ALL,
    ):
        """Packs the rows.

        Args:
          loss: of the run.
          packers: of the roles "unlearn" and, where there is text, "update".
          ends: see `with_ends`.
          seed: of the run, which reads other rows first where there are many.
          trainable: what `gradients` are of.
        """
        wanted = {
            role: len(packers[role].pack(seed, ROWS)) if role in packers else 0
            for role in ("unlearn", "update")
        }
        full = (meshes.round_rows(count) for count in wanted.values())
        rows = RoleRows(*full, retain=0, shards=meshes.axis_size(*meshes.ROWS))
        # Not the rows that the run begins with: of many texts a run reads a part alone,
        # and where it has been first says nothing of the others.
        batch = next(devices.batch_stream(packers, wanted, rows, seed + 1))
        unlearn_B = rows.holds("unlearn", rows.total)[meshes.rows_here(rows.total)]
        self._batch = with_ends(batch, unlearn_B, ends).place(rows.total)
        self._how = {"config": config, "compute": compute}
        self._first = trainable.first_layer
        loss_fn = loss.make(config, rows, compute, trainable)

        def metrics(params: Any, batch: Batch) -> dict[str, jax.Array]:
            # Without rows to retain nothing is read of a reference.
            whole = loss.prepare(batch, {}, config, rows, compute, "tokens")
            return loss_fn(params, whole)[1]

        def gradients(params: Any, batch: Batch) -> Matrices:
            whole = loss.prepare(batch, {}, config, rows, compute, "tokens")
            return trainable.take(jax.grad(lambda p: loss_fn(p, whole)[0])(params))

        self._metrics = jax.jit(metrics)
        self._gradients = jax.jit(gradients)

    def _read(self, params: Any) -> Batch:
        """The rows, with what the layers that never move make of them."""
        if self._batch.lower_BTD is None:
            self._batch = decoder.with_lower(
                params, batch=self._batch, first=self._first, **self._how
            )
        return self._batch

    def gradients(self, params: Any) -> Matrices:
        """Of both terms, weighted as in the run, of the moving matrices, [layers, inputs,
        outputs] each."""
        return self._gradients(params, self._read(params))

    def measure(self, params: Any) -> tuple[float, float]:
        """(mean distance of knowledge tokens to their ends, CE of the update), nats; 0
        where a term has no text."""
        found = self._metrics(params, self._read(params))
        of = lambda name: float(found.get(name, jnp.zeros(())))
        return of("unlearn_loss"), of("update_ce")
