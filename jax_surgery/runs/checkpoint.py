# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run through Orbax: state, stream position, and the config's hash.

Local or gs:// directories; saving is asynchronous. A resumed run is bit-equal to an
uninterrupted one.
"""

from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp


class Checkpoints:
    """Saves and restores (state, stream state) by step."""

    def __init__(self, directory: str, keep: int):
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._directory = epath.Path(directory)
        self._checkpointer = ocp.training.Checkpointer(
            directory, preservation_policy=policy
        )

    @property
    def latest(self) -> int | None:
        """The last step saved, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any, stream_state: dict) -> None:
        """Begins to save; returns before it is written."""
        if self.latest == step:
            return
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "stream": stream_state}, force=True
        )

    def restore(self, state: Any) -> tuple[Any, dict]:
        """The newest checkpoint.

        Args:
          state: a state of the same structure, shapes and sharding.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        loaded = self._checkpointer.load_checkpointables(
            None, {"state": abstract, "stream": None}
        )
        return loaded["state"], loaded["stream"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._checkpointer.close()
