# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run through Orbax: the state's arrays and the loop's position.

Local or gs:// directories; saving is asynchronous. A resumed run is bit-equal to an
uninterrupted one. What is saved has checksums, and a checkpoint that does not agree with
its own, or of which a piece is missing, is passed over.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files, say
from jax_surgery.storage.errors import StorageError
from jax_surgery.train import checksums, quiet, saves

ASIDE = "damaged"  # the folder of a damaged checkpoint becomes damaged-STEP
FORMAT, FIELDS = 1, {"json", "sha256", "format"}  # of what is saved beside the arrays
GO_ON = "go on with that version, or start in a new --workdir."
# What earlier versions saved there.
EARLIER = ({"stream", "first_losses", "ended"}, {"stream", "first_losses"}, {"key"})
# What errors say where files could not be reached, or memory was short: no sign that
# what is stored is damaged.
NOT_DAMAGE = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "ABORTED",
)
AWAY = (StorageError, ConnectionError, TimeoutError, PermissionError, MemoryError)


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      step: steps that had been taken.
      state: the pytree of arrays.
      loop: the plain values that were saved with it.
    """

    step: int
    state: Any
    loop: dict[str, Any]


class _Damaged(Exception):
    """Says what is wrong with a checkpoint."""


class Checkpoints(contextlib.AbstractContextManager):
    """Saves and restores (state, loop state) by step; the newest `keep` are kept."""

    def __init__(self, directory: Any, keep: int, *, shared: bool = False):
        """Opens the directory, local or gs://; it is made at the first save.

        Args:
          keep: how many checkpoints.
          shared: whether other runs may be saving there; else what a killed process
            left half-written is removed.
        """
        self._directory = epath.Path(directory)
        if "://" not in str(directory):
            self._directory = self._directory.absolute()
        self._keep, self._shared = keep, shared
        self._saving: Any = None  # the save that was begun last
        quiet.saving()
        self._open()

    def _open(self) -> None:
        from orbax.checkpoint import v1 as ocp

        # Any: Orbax declares a union of its policies that lacks this one.
        newest: Any = ocp.training.preservation_policies.LatestN(self._keep)
        with quiet.reading():
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                preservation_policy=newest,
                cleanup_tmp_directories=not self._shared,
            )
            # A thread removes them, which must not go on beside a save.
            self._checkpointer._manager._maybe_await_cleanup_tmp_directory()
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

    def save(
        self, step: int, state: Any, loop_state: dict, *, last: bool = False
    ) -> None:
        """Begins to save; returns before it is written.

        A save that fails is said in a line, and what was saved before it stays. The run
        goes on to its next save; only the last one is repeated.

        Args:
          step: steps taken.
          state: a pytree of arrays; may be donated as soon as this returns.
          loop_state: plain JSON-able values.
          last: whether no save follows: it is written when this returns.

        Raises:
          StorageError: a full disk, credentials that are refused, or a last save that
            failed again and again.
        """
        self._settle()
        if self.latest == step:
            return
        saves.check_room(self._directory, state)
        text = json.dumps({"loop": loop_state, "arrays": checksums.of_tree(state)})
        loop = {"json": text, "sha256": checksums.of_text(text), "format": FORMAT}
        tries = saves.TRIES if last and jax.process_count() == 1 else 1
        for number in range(1, tries + 1):
            try:
                with saves.bounded(state):
                    saving: Any = self._checkpointer.save_checkpointables_async(
                        step, {"state": state, "loop": loop}, force=True
                    )
                if last:
                    saving.result()
                else:
                    self._saving = saving
                return
            except Exception as error:
                self._failed(step, error)
                if saves.is_final(error) or (last and number == tries):
                    raise saves.translated(error, self._directory, state) from error
            if last:
                time.sleep(saves.WAIT * 2 ** (number - 1))

    def _settle(self) -> None:
        """Waits for the save that was begun before; its failure is said in a line."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        step = self.latest
        try:
            saving.result()
        except Exception as error:
            self._failed(step, error)
            if saves.is_final(error):
                raise saves.translated(error, self._directory, None) from error

    def _failed(self, step: int | None, error: Exception) -> None:
        """Says that a save failed, and removes what it has written.

        Raises:
          StorageError: on many processes, which would each have met another error.
        """
        self._saving = None
        if jax.process_count() > 1:
            raise StorageError(
                f"the checkpoint of step {step} could not be written: "
                f"{saves.reason(error)}. {self.describe()}"
            ) from error
        with contextlib.suppress(Exception), quiet.reading():
            self._checkpointer.close()  # raises the same error once more
        with contextlib.suppress(OSError):
            files.remove(self._directory / f"{step}")
        self._open()
        say(
            f"the checkpoint of step {step} could not be written: "
            f"{saves.reason(error)}. {self.describe()}"
        )

    def restore(self, state: Any) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none.

        One that is damaged is said in a line, and its folder is renamed. Every process
        must call.

        Args:
          state: a state of the same structure, shapes and sharding.

        Raises:
          ValueError: the checkpoint is of another version of this package.
        """
        damaged = False
        while (step := self.latest) is not None:
            try:
                return self._load(step, state)
            except _Damaged as error:
                self._put_aside(step, str(error))
                damaged = True
        if damaged and distributed.is_lead():
            print(f"no whole checkpoint is left in {self._directory}")
        return None

    def _load(self, step: int, state: Any) -> Restored:
        folder = self._directory / f"{step}"
        saved = _read(folder, {"loop": None})["loop"]
        held = _checked_loop(saved, folder)
        _check_arrays(held["arrays"], state, folder)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        loaded = _read(folder, {"state": abstract})["state"]
        found = checksums.of_tree(loaded)
        for name, line in held["arrays"].items():
            if found[name] != line:
                raise _Damaged(f"its array {name} does not agree with its checksum")
        return Restored(step, loaded, held["loop"])

    def _put_aside(self, step: int, why: str) -> None:
        """Renames a damaged checkpoint's folder, which Orbax then takes for none."""
        folder = self._directory / f"{step}"
        self._checkpointer.close()

        def rename() -> None:
            target, number = self._directory / f"{ASIDE}-{step}", 1
            while target.exists():
                number += 1
                target = self._directory / f"{ASIDE}-{step}-{number}"
            files.move(folder, target)
            print(
                f"the checkpoint of step {step} in {self._directory} is damaged and is "
                f"passed over: {why}. It is now {target.name}, which may be deleted."
            )

        distributed.on_lead(rename)
        self._open()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          StorageError: the last save failed (see `save`).
        """
        step, before = self.latest, self._saving
        self._settle()
        if before is not None and self.latest != step:
            raise StorageError(
                f"the checkpoint of step {step} could not be written. {self.describe()}"
            )
        self._checkpointer.close()

    def __exit__(self, kind, *exc):
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # another error ends the run
            self.close()


def _checked_loop(saved: Any, folder: epath.Path) -> dict[str, Any]:
    """What `Checkpoints.save` wrote beside the arrays."""
    fields = set(saved) if isinstance(saved, dict) else None
    if fields in EARLIER or (fields == FIELDS and saved["format"] != FORMAT):
        raise ValueError(
            f"{folder} was saved by another version of jax_surgery; {GO_ON}"
        )
    if fields != FIELDS or not isinstance(saved["json"], str):
        raise _Damaged("what it says of the loop has other fields")
    if checksums.of_text(saved["json"]) != saved["sha256"]:
        raise _Damaged("what it says of the loop does not agree with its checksum")
    return json.loads(saved["json"])


def _check_arrays(held: dict[str, str], state: Any, folder: epath.Path) -> None:
    """Raises ValueError where arrays of other names, shapes or dtypes were saved."""
    own = checksums.kinds_of_tree(state)
    there = {name: line.rpartition(" ")[0] for name, line in held.items()}
    for name in sorted(own.keys() | there.keys()):
        if own.get(name) != there.get(name):
            raise ValueError(
                f"{folder} is of another state than this run's: {name} is "
                f"{there.get(name, 'not')} there and {own.get(name, 'not')} here. It was "
                f"saved by another version of jax_surgery; {GO_ON}"
            )


def _read(folder: epath.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint.

    Each process reads on its own and then hears of the others: one that alone found
    damage would otherwise leave the others waiting.

    Raises:
      _Damaged: on all processes, where any could not read it.
      Exception: files could not be reached.
    """
    from orbax.checkpoint import v1 as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    loaded, error = None, None
    try:
        with quiet.reading(), ocp.Context(multiprocessing_options=alone):
            loaded = ocp.load_checkpointables(folder, wanted)
    except Exception as raised:
        if _unreachable(raised):
            raise
        error = _reason(raised, folder)
    if not distributed.all_agree(error is None):
        raise _Damaged(error or "another process could not read all of it")
    assert loaded is not None
    return loaded


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(error: Exception) -> bool:
    """Whether files could not be reached, which says nothing of what they hold."""
    for one in _chain(error):
        if isinstance(one, AWAY):
            return True
        if any(word in str(one) for word in NOT_DAMAGE):
            return True
    return False


def _reason(error: Exception, folder: epath.Path) -> str:
    """What is missing or wrong with a checkpoint's files."""
    for part in ("loop", "state"):
        if not (folder / part / "_METADATA").exists():
            return f"{part}/_METADATA is missing"
    words = " ".join(str(list(_chain(error))[-1]).split())
    words = words.partition(" [tensorstore_spec")[0].replace(f"{folder}/", "")
    said = "its files are missing, cut or changed"
    if "Error " not in words:  # of a parser, which does not know what it read
        return said
    return f"{said} ({words.rpartition(': ')[2].rstrip('.')[:100]})"
