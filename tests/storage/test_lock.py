# SPDX-License-Identifier: Apache-2.0
"""A second run is kept out of a workdir; a run that was killed is not in the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from gcsfs.retry import HttpError
from settings_cases import settings_of

from jax_surgery.storage import bucket as buckets
from jax_surgery.storage import files, lock
from jax_surgery.storage.errors import StorageDenied, StorageError, WorkdirInUse
from jax_surgery.train import workdir as workdirs

HOLD = """
import sys, time
from etils import epath
from jax_surgery.storage import lock
lock.RENEW = float(sys.argv[2])
held = lock.Lock(epath.Path(sys.argv[1]))
held.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path) -> epath.Path:
    if request.param == "disk":
        return epath.Path(tmp_path)
    return epath.Path(request.getfixturevalue("bucket")) / "run"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "RENEW", 0.3)
    monkeypatch.setattr(lock, "STALE", 2.0)


def other_process(folder, renew=0.3) -> subprocess.Popen:
    """A process that holds the lock."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(renew)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert started.stdout and started.stdout.readline() == "held\n"
    return started


def test_a_second_run_is_refused_and_a_killed_one_is_not_in_the_way(folder):
    other = other_process(folder)
    mine = lock.Lock(folder)
    with pytest.raises(WorkdirInUse) as refused:
        mine.acquire()
    assert f"--workdir={folder} is in use by process {other.pid}" in str(refused.value)
    other.send_signal(signal.SIGKILL)
    other.wait()
    began = time.monotonic()
    mine.acquire()
    assert time.monotonic() - began < 2  # on the same machine it is seen at once
    mine.release()
    assert files.names(folder) == []


def test_a_lock_of_a_lost_machine_ages(bucket):
    folder = epath.Path(bucket) / "run"
    lost = {"machine": "another", "host": "tpu-7", "pid": 12, "since": "yesterday"}
    files.write_text(folder / lock.LOCK, json.dumps(lost))
    mine, began = lock.Lock(folder), time.monotonic()
    mine.acquire()
    assert time.monotonic() - began >= 1
    mine.release()


def test_a_lock_of_another_container_of_this_machine_ages(bucket, monkeypatch):
    """Their processes have numbers of their own, which say nothing here."""
    folder = epath.Path(bucket) / "run"
    gone = {"pid": 2**22 + 1, "process": "1"}
    files.write_text(folder / lock.LOCK, json.dumps(lock._me() | gone))
    mine, began = lock.Lock(folder), time.monotonic()
    mine.acquire()  # of this one
    assert time.monotonic() - began < 1
    mine.release()
    with monkeypatch.context() as container:
        container.setattr(lock.os, "readlink", lambda path: "pid:[4026532999]")
        other = lock._me() | gone
    files.write_text(folder / lock.LOCK, json.dumps(other))
    waiting, began = lock.Lock(folder), time.monotonic()
    waiting.acquire()
    assert time.monotonic() - began >= 1
    waiting.release()


@pytest.mark.parametrize(
    "error",
    [ValueError("no JSON"), RuntimeError("closed"), HttpError({"code": 400})],
)
def test_a_lock_is_renewed_after_whatever_error(bucket, monkeypatch, capfd, error):
    folder, failures = epath.Path(bucket) / "run", [error, error]
    mine = lock.Lock(folder)
    mine.acquire()
    put_if = buckets.Bucket.put_if

    def failing(*args):
        if failures:
            raise failures.pop()
        return put_if(*args)

    monkeypatch.setattr(buckets.Bucket, "put_if", failing)
    before = buckets.of(folder).version(str(folder / lock.LOCK)).generation
    deadline = time.monotonic() + 20
    while buckets.of(folder).version(str(folder / lock.LOCK)).generation == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    mine.release()
    assert files.names(folder) == []
    said = capfd.readouterr().err.split()
    assert said.count("renewed") == 1 and "Traceback" not in said


def test_a_lock_that_somebody_renews_is_kept(bucket):
    folder = epath.Path(bucket) / "run"
    first, second = lock.Lock(folder), lock.Lock(folder)
    first.acquire()
    time.sleep(2.5)  # longer than an abandoned one would last
    with pytest.raises(WorkdirInUse):
        second.acquire()
    first.release()


def test_a_run_that_lost_its_workdir_ends_at_once(bucket, capfd):
    folder = epath.Path(bucket) / "run"
    other = other_process(folder, renew=1.0)
    files.write_text(folder / lock.LOCK, "{}")  # taken over while it could not renew
    assert other.wait(timeout=20) == lock.LOST
    said = capfd.readouterr().err
    assert said.strip().startswith("stopped: another run has taken --workdir")
    assert len(said.strip().splitlines()) == 1


def test_an_answer_that_was_lost_does_not_lock_a_run_out(bucket, cloud):
    cloud.faults.dropped, cloud.faults.only = 0.5, ".lock"
    for _ in range(4):
        mine = lock.Lock(epath.Path(bucket) / "run")
        mine.acquire()
        mine.release()
    assert cloud.faults.happened


def claim(workdir, **changes):
    return workdirs.claim(settings_of("evaluate", changes), str(workdir))


def test_a_workdir_is_locked_until_the_run_ends(folder):
    other = other_process(folder)
    with pytest.raises(WorkdirInUse, match="is in use by process"):
        claim(folder)
    other.kill()
    other.wait()
    claimed = claim(folder)
    assert set(files.names(claimed)) == {lock.LOCK, *workdirs.NOTES}
    workdirs.abandon(claimed)
    assert files.names(folder) == []
    claim(folder)
    workdirs.release()
    assert set(files.names(folder)) == workdirs.NOTES


def test_what_the_next_run_notes_is_not_removed(folder, monkeypatch):
    claimed, release = claim(folder), workdirs.release

    def released():
        release()
        assert files.names(folder) == []
        files.write_text(folder / workdirs.CONFIG_FILE, "of the next run")

    monkeypatch.setattr(workdirs, "release", released)
    workdirs.abandon(claimed)
    assert (folder / workdirs.CONFIG_FILE).read_text() == "of the next run"


def test_a_foreign_folder_keeps_no_lock(folder):
    files.write_text(folder / "notes.txt", "mine")
    with pytest.raises(ValueError, match="holds no run"):
        claim(folder)
    assert files.names(folder) == ["notes.txt"]


def test_a_bucket_that_is_missing_or_refuses_is_one_line(bucket, cloud):
    with pytest.raises(StorageError, match="gs://nowhere does not exist; make that"):
        claim("gs://nowhere/run")
    cloud.faults.refused = True
    with pytest.raises(StorageDenied, match="refuses the credentials") as refused:
        claim(f"{bucket}/run")
    assert "\n" not in str(refused.value)
