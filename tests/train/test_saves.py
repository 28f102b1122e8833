# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that cannot be saved: one line, the last good one stays, it is repeated."""

import types

import jax
import jax.numpy as jnp
import pytest
from small_disks import small_disk

from jax_surgery.storage import files
from jax_surgery.storage.errors import DiskFull, StorageDenied, StorageError
from jax_surgery.train import checkpoint, saves
from jax_surgery.train.checkpoint import Checkpoints

STATE = {"w": jnp.linspace(0, 1, 1000)}
LOST = 'ALREADY_EXISTS: Error writing "w/zarr.json" in OCDBT database'


class Failing:
    """Saves of a `Checkpoints` that fail while they are written, a number of times."""

    def __init__(self, monkeypatch, times: int):
        self.left = times
        begun = Checkpoints._open

        def opened(checkpoints):
            begun(checkpoints)
            own = checkpoints._checkpointer
            real = own.save_checkpointables_async
            monkeypatch.setattr(
                own,
                "save_checkpointables_async",
                lambda *args, **kwargs: self.watch(real(*args, **kwargs)),
            )

        monkeypatch.setattr(Checkpoints, "_open", opened)
        monkeypatch.setattr(saves, "WAIT", 0.0)

    def watch(self, saving):
        self.saving = saving
        return self

    def result(self):
        self.saving.result()
        if self.left:
            self.left -= 1
            raise ValueError(LOST)


def test_a_save_that_fails_is_one_line_and_the_run_goes_on(
    tmp_path, monkeypatch, capfd
):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, STATE, {"at": 1})
    Failing(monkeypatch, times=1)
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        checkpoints.save(2, STATE, {"at": 2})
        checkpoints.save(3, STATE, {"at": 3}, last=True)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("the checkpoint of step 2 could not be written: the storage")
    assert "The checkpoint of step 1 is kept in" in line
    assert files.names(tmp_path / "c") == ["1", "3"]


def test_the_last_save_is_repeated(tmp_path, monkeypatch, capfd):
    wait, waits = saves.WAIT, []
    Failing(monkeypatch, times=2)
    monkeypatch.setattr(saves, "WAIT", wait)
    clock = types.SimpleNamespace(sleep=waits.append)
    monkeypatch.setattr(checkpoint, "time", clock)
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(5, STATE, {"at": 5}, last=True)
        assert checkpoints.restore(STATE).loop == {"at": 5}
    assert len(capfd.readouterr().err.splitlines()) == 2
    assert waits == [2.0, 4.0]


def test_a_last_save_that_fails_always_ends_in_one_line(tmp_path, monkeypatch):
    Failing(monkeypatch, times=100)
    with (
        pytest.raises(StorageError, match="no checkpoint could be written") as error,
        Checkpoints(tmp_path / "c", keep=1) as checkpoints,
    ):
        checkpoints.save(5, STATE, {"at": 5}, last=True)
    assert "\n" not in str(error.value)


def test_a_bucket_that_refuses_ends_it_at_once(bucket, cloud, capfd):
    checkpoints = Checkpoints(f"{bucket}/c", keep=1)
    checkpoints.save(1, STATE, {"at": 1}, last=True)
    cloud.faults.refused = True
    with pytest.raises(StorageDenied, match="refuses the credentials in use"):
        checkpoints.save(2, STATE, {"at": 2})
    cloud.faults.refused = False
    assert "Traceback" not in capfd.readouterr().err
    with Checkpoints(f"{bucket}/c", keep=1) as again:
        assert again.restore(STATE).step == 1


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        with Checkpoints(disk / "c", keep=1) as checkpoints:
            checkpoints.save(1, STATE, {"at": 1})
        large = {"w": jnp.zeros(10**6)}
        wanted = r"a checkpoint of the run needs 3.8 MiB in .*/c, where .* are left"
        with (
            pytest.raises(DiskFull, match=wanted),
            Checkpoints(disk / "c", keep=1) as checkpoints,
        ):
            checkpoints.save(2, large, {"at": 2})
        with Checkpoints(disk / "c", keep=1) as checkpoints:
            assert checkpoints.restore(STATE).step == 1
        assert files.names(disk / "c") == ["1"]


def test_arrays_are_written_few_at_a_time(tmp_path, monkeypatch):
    """At most as many bytes as the bound, or as the largest array, which still fits."""
    state = {name: jnp.full((64, 64), i) for i, name in enumerate("abc")}
    bound = lambda of: saves.bounded(of).memory.write_concurrent_bytes
    assert bound(state) == saves.AT_A_TIME
    monkeypatch.setattr(saves, "AT_A_TIME", 1)
    assert bound(state | {"d": jnp.zeros((65, 64))}) == 65 * 64 * 4 + 1
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state, {}, last=True)
        restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert restored and all(jnp.array_equal(restored.state[k], state[k]) for k in state)
