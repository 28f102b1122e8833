# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: one line, with what is needed and what is left."""

import os
import re

import numpy as np
import pytest
from etils import epath
from small_disks import small_disk

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.storage import files, space
from jax_surgery.storage.errors import DiskFull

LINE = r"the disk is full: .* needs .* in .*, where .* are left\. Make room, or "


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def test_sizes_are_said_in_words():
    assert [space.in_words(n) for n in (12, 2048, 3.5 * 2**30)] == [
        "12 bytes",
        "2.0 KiB",
        "3.5 GiB",
    ]


def test_what_does_not_fit_is_refused_before_it_is_written(disk):
    with pytest.raises(DiskFull, match=LINE + "take a --workdir on another disk"):
        space.check(disk / "not" / "yet", 2**21, "the model")
    space.check(disk, 2**19, "the model")
    space.check("gs://bucket/model", 2**60, "the model")  # buckets have room


def test_a_reserved_file_has_its_place(disk):
    space.reserve(disk / "cache", 2**19, "the cache")
    mapped = np.memmap(disk / "cache", mode="r+", dtype=np.uint8)
    with pytest.raises(OSError):
        (disk / "other").write_bytes(b"x" * 2**20)
    mapped[:] = 1  # would be SIGBUS in a file of holes
    (disk / "other").unlink()
    with pytest.raises(DiskFull, match=re.escape("the cache needs 1.0 MiB")):
        space.reserve(disk / "second", 2**20, "the cache")
    assert os.listdir(disk) == ["cache"]


def test_a_file_that_does_not_fit_leaves_the_old_one(disk):
    files.write_text(disk / "state", "good")
    with pytest.raises(OSError) as error:
        files.write_bytes(disk / "state", b"x" * 2**21)
    assert space.is_full(error.value)
    assert os.listdir(disk) == ["state"] and (disk / "state").read_text() == "good"
    large = {"a": np.zeros((600, 600), np.float32)}
    layout = {name: (array.shape, array.dtype) for name, array in large.items()}
    with pytest.raises(DiskFull, match=r"model.safetensors needs 1.4 MiB in"):
        safetensors_file.write(
            epath.Path(disk) / "model.safetensors", layout, large.values()
        )
    assert os.listdir(disk) == ["state"]


def test_words_and_causes_say_that_a_disk_is_full():
    inner = ValueError("RESOURCE_EXHAUSTED: ... No space left on device [source]")
    outer = RuntimeError("could not save")
    outer.__cause__ = inner
    assert space.is_full(inner) and space.is_full(outer)
    assert not space.is_full(RuntimeError("something else"))
