# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run through Orbax: the state's arrays and the loop's position.

Local or gs:// directories; saving is asynchronous. A resumed run is bit-equal to an
uninterrupted one.
"""

import contextlib
from typing import Any

import jax
from etils import epath


class Checkpoints(contextlib.AbstractContextManager):
    """Saves and restores (state, loop state) by step; the newest `keep` are kept."""

    def __init__(self, directory: Any, keep: int):
        """Opens the directory, local or gs://; it is made at the first save."""
        from orbax.checkpoint import v1 as ocp

        self._directory = epath.Path(directory)
        if "://" not in str(directory):
            self._directory = self._directory.absolute()
        # Any: Orbax declares a union of its policies that lacks this one.
        newest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=newest,
        )
        # Orbax asks JAX about preemption too, by its own step numbers and also from
        # the thread that finishes a save. JAX takes the number of whoever asked last
        # for where the run is, and would choose a point that has passed. Whether to
        # stop is asked in one place, `parallel.preemption`.
        self._checkpointer._manager.reached_preemption = lambda step: False

    @property
    def latest(self) -> int | None:
        """The last step saved, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def describe(self) -> str:
        """Names the newest checkpoint, for messages."""
        if self.latest is None:
            return "No checkpoint had been written yet."
        return f"The checkpoint of step {self.latest} is kept in {self._directory}."

    def save(self, step: int, state: Any, loop_state: dict) -> None:
        """Begins to save; returns before it is written.

        Args:
          step: steps taken.
          state: a pytree of arrays; may be donated as soon as this returns.
          loop_state: plain JSON-able values.
        """
        if self.latest == step:
            return
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "loop": loop_state}, force=True
        )

    def restore(self, state: Any) -> tuple[Any, dict]:
        """(state, loop state) of the newest checkpoint.

        Args:
          state: a state of the same structure, shapes and sharding.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        loaded = self._checkpointer.load_checkpointables(
            None, {"state": abstract, "loop": None}
        )
        return loaded["state"], loaded["loop"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._checkpointer.close()

    def __exit__(self, *exc):
        self.close()
