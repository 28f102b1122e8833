# SPDX-License-Identifier: Apache-2.0
"""Requests to a bucket are repeated, with a line where it takes a while."""

import subprocess
import sys
import time

import pytest
from etils import epath

from jax_surgery.storage import bucket as buckets
from jax_surgery.storage import files
from jax_surgery.storage.errors import StorageAway, StorageDenied


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(buckets, "_voice", buckets._Voice())


@pytest.mark.parametrize(("unavailable", "dropped"), [(0.1, 0), (0.4, 0), (0, 0.4)])
def test_faults_lose_and_repeat_nothing(bucket, cloud, unavailable, dropped, capfd):
    cloud.faults.unavailable, cloud.faults.dropped = unavailable, dropped
    wanted = {f"{number}.txt": str(number) * 50 for number in range(10)}
    for name, text in wanted.items():
        files.write_text(f"{bucket}/run/{name}", text)
    with files.writing(f"{bucket}/large") as opened:
        for number in range(7):
            opened.write(bytes([number]) * 2**20)
    folder = epath.Path(bucket) / "run"
    found = {name: (folder / name).read_text() for name in files.names(folder)}
    assert found == wanted
    large = epath.Path(f"{bucket}/large").read_bytes()
    assert large == b"".join(bytes([number]) * 2**20 for number in range(7))
    files.remove(folder)
    assert files.names(bucket) == ["large"]
    assert cloud.faults.happened
    assert len(capfd.readouterr().err.splitlines()) <= 1


def test_an_outage_is_waited_for(bucket, cloud, capfd):
    cloud.faults.down_until = time.time() + 4
    files.write_text(f"{bucket}/late", "there")
    assert epath.Path(f"{bucket}/late").read_text() == "there"
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{bucket}") and "repeated for up to 20 minutes" in line


def test_an_outage_that_lasts_ends_in_one_line(bucket, cloud, monkeypatch):
    monkeypatch.setattr(buckets, "PATIENCE", 1.0)
    cloud.faults.down_until = time.time() + 60
    with pytest.raises(StorageAway, match="did not answer for [1-9] s") as ended:
        files.names(bucket)
    assert "\n" not in str(ended.value)
    cloud.faults.down_until = 0
    assert files.names(bucket) == []


def test_what_cleans_up_after_an_outage_does_not_wait_as_long_again(
    bucket, cloud, monkeypatch
):
    for name, seconds in (("PATIENCE", 2.0), ("IMPATIENCE", 0.0), ("LONGEST", 0.2)):
        monkeypatch.setattr(buckets, name, seconds)
    # The upload begins, its parts do not arrive, and it cannot be given up either.
    cloud.faults.unavailable, cloud.faults.only = 1.0, "upload_id"
    began = time.monotonic()
    with pytest.raises(StorageAway):
        files.write_bytes(f"{bucket}/large", b"x" * 6_000_000)
    assert 2 < time.monotonic() - began < 3.8
    cloud.faults.down_until, began = time.time() + 60, time.monotonic()
    for _ in range(3):
        with pytest.raises(StorageAway):
            files.names(bucket)
    assert time.monotonic() - began < 1.5
    cloud.faults.down_until = 0
    assert files.names(bucket) == []
    # It has answered: the next outage is waited for again.
    cloud.faults.down_until = time.time() + 1
    assert files.names(bucket) == []


def test_files_are_moved_though_answers_are_lost(bucket, cloud):
    for number in range(10):
        files.write_text(f"{bucket}/run/5/{number}.txt", str(number))
    cloud.faults.dropped, cloud.faults.only = 0.5, "moveTo"
    files.move(f"{bucket}/run/5", f"{bucket}/run/damaged-5")
    assert files.names(f"{bucket}/run") == ["damaged-5"]
    moved = epath.Path(f"{bucket}/run/damaged-5")
    assert files.names(moved) == [f"{number}.txt" for number in range(10)]
    assert all((moved / f"{n}.txt").read_text() == str(n) for n in range(10))
    assert cloud.faults.happened > 2
    with pytest.raises(FileNotFoundError):
        files.move(f"{bucket}/none", f"{bucket}/some")


def test_refused_is_not_absent(bucket, cloud):
    files.write_text(f"{bucket}/model/config.json", "{}")
    cloud.faults.refused = True
    folder = epath.Path(f"{bucket}/model")
    for ask in (folder.exists, folder.is_dir, lambda: files.names(folder)):
        with pytest.raises(StorageDenied, match="refuses the credentials in use"):
            ask()


def test_a_file_that_another_process_wrote_is_seen(bucket, cloud):
    assert files.names(f"{bucket}/run") == []
    cloud.storage.put(bucket.removeprefix("gs://"), "run/new", b"1", "text/plain", {})
    assert files.names(f"{bucket}/run") == ["new"]
    assert epath.Path(f"{bucket}/run").is_dir()


def test_gcsfs_is_loaded_for_buckets_alone():
    code = "import sys, jax_surgery.storage.files; sys.exit('gcsfs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_uploaded_is_a_view_of_bytes(bucket):
    """Python 3.12.1 crashes where garbage holds a view of a BytesIO."""
    path = epath.Path(f"{bucket}/large")
    with path.open("wb") as opened:
        for number in range(3):
            assert isinstance(opened.buffer.getbuffer().obj, bytes)
            opened.write(bytes([number]) * 4_000_000)
    found = path.read_bytes()
    assert found == b"".join(bytes([n]) * 4_000_000 for n in range(3))
