# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints: seen, said in one line, and passed over for the newest whole one."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from damage import cut, flip, largest

from jax_surgery.storage import files
from jax_surgery.train import checksums
from jax_surgery.train.checkpoint import Checkpoints

STATE = {
    "w": jax.random.normal(jax.random.key(0), (40, 50)),
    "scale": jnp.arange(7, dtype=jnp.bfloat16),
    "mask": jnp.array([True, False]),
    "count": jnp.array(3),
}
OLDER = jax.tree.map(lambda x: x if x.dtype == bool else x + 1, STATE)


def assert_same(tree, other):
    for left, right in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(10, OLDER, {"at": 10})
        checkpoints.save(20, STATE, {"at": 20})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "c")
    return tmp_path / "c"


def emptied(step: pathlib.Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    "a flipped bit of an array": (lambda s: flip(largest(s)), r"array \['w'\]"),
    "a cut array": (lambda s: cut(largest(s)), "cut or changed"),
    "an array of no bytes": (lambda s: cut(largest(s), 0), "cut or changed"),
    "a missing array": (lambda s: largest(s).unlink(), "missing, cut"),
    "a missing folder": (lambda s: shutil.rmtree(s / "state"), "state/_METADATA is"),
    "a cut list of arrays": (lambda s: cut(s / "state" / "_METADATA"), "cut or"),
    "a flipped bit of the index": (
        lambda s: flip(s / "state" / "manifest.ocdbt"),
        "cut or changed",
    ),
    "a flipped bit of the loop": (
        lambda s: flip(s / "loop" / "_strings.json", 0.3),
        "loop does not agree|cut or changed",
    ),
    "an empty folder": (emptied, "loop/_METADATA is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(
    folder, damage, capfd
):
    harm, words = DAMAGES[damage]
    harm(folder / "20")
    with Checkpoints(folder, keep=2) as checkpoints:
        found = checkpoints.restore(STATE)
        assert found.step == 10 and found.loop == {"at": 10}
        assert_same(found.state, OLDER)
        checkpoints.save(20, STATE, {"at": 20})  # the step is free again
    printed, errors = capfd.readouterr()
    [line] = printed.splitlines()
    assert line.startswith(f"the checkpoint of step 20 in {folder} is damaged")
    assert re.search(words, line), line
    assert not errors
    assert {p.name for p in folder.iterdir()} == {"10", "20", "damaged-20"}
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore(STATE).step == 20


@pytest.mark.slow
def test_any_flipped_byte_is_seen_or_does_not_matter(folder):
    """Of every file, at three places: what is restored is what was saved, in any case."""
    files = [file for file in (folder / "20").rglob("*") if file.is_file()]
    for file in files:
        whole = file.read_bytes()
        for place in (0.0, 0.5, 1.0):
            flip(file, place)
            with Checkpoints(folder, keep=2) as checkpoints:
                found = checkpoints.restore(STATE)
            assert_same(found.state, {10: OLDER, 20: STATE}[found.step])
            assert found.loop == {"at": found.step}
            for aside in folder.glob("damaged-*"):
                aside.rename(folder / "20")
            file.write_bytes(whole)


def test_without_a_whole_checkpoint_there_is_none(folder, capsys):
    emptied(folder / "10")
    cut(largest(folder / "20"))
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore(STATE) is None
        assert checkpoints.latest is None
        checkpoints.save(10, STATE, {"at": 10})
    assert "no whole checkpoint is left" in capsys.readouterr().out
    assert Checkpoints(folder, keep=2).restore(STATE).step == 10


def test_files_that_cannot_be_reached_are_no_damage(folder, monkeypatch):
    """A bucket that does not answer must not cost a checkpoint."""
    from orbax.checkpoint import v1 as ocp

    def fail(*_):
        raise ValueError("UNAVAILABLE: HTTP response code: 503")

    with monkeypatch.context() as patch, Checkpoints(folder, keep=2) as checkpoints:
        patch.setattr(ocp, "load_checkpointables", fail)
        with pytest.raises(ValueError, match="UNAVAILABLE"):
            checkpoints.restore(STATE)
    assert {p.name for p in folder.iterdir()} == {"10", "20"}
    assert Checkpoints(folder, keep=2).restore(STATE).step == 20


def test_checkpoints_of_other_versions_are_refused(folder, tmp_path):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(tmp_path / "old") as earlier:
        loop = {"stream": {"drawn": 1}, "first_losses": [0.5], "ended": False}
        earlier.save_checkpointables(1, {"state": STATE, "loop": loop})
    with pytest.raises(ValueError, match="another version .* start in a new --workdir"):
        Checkpoints(tmp_path / "old", keep=1).restore(STATE)
    others = {"more": STATE["w"], "w": STATE["w"][1:], "count": jnp.array(3.0)}
    for name, array in others.items():
        with pytest.raises(ValueError, match=f"of another state .*'{name}'.* here"):
            Checkpoints(folder, keep=2).restore(STATE | {name: array})
    assert {p.name for p in folder.iterdir()} == {"10", "20"}


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_passed_over(bucket, cloud, capsys):
    folder = f"{bucket}/c"
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(10, OLDER, {"at": 10})
        checkpoints.save(20, STATE, {"at": 20})
    objects = cloud.storage.buckets[bucket.removeprefix("gs://")]
    arrays = (name for name in objects if name.startswith("c/20/state/d/"))
    del objects[max(arrays, key=lambda name: len(objects[name].data))]
    with Checkpoints(folder, keep=2) as checkpoints:
        restored = checkpoints.restore(STATE)
    assert restored.step == 10
    assert_same(restored.state, OLDER)
    assert "damaged-20" in capsys.readouterr().out
    assert files.names(folder) == ["10", "damaged-20"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8])
def test_every_changed_bit_changes_the_sums(dtype):
    array = jnp.arange(24).reshape(2, 3, 4).astype(dtype)
    before = checksums.of_array(array)
    assert before == checksums.of_array(array + 0)
    raw = np.asarray(array).view(np.uint8)
    for place in np.ndindex(raw.shape):
        for bit in range(8):
            changed = raw.copy()
            changed[place] ^= 1 << bit
            other = checksums.of_array(jnp.asarray(changed.view(array.dtype)))
            assert other[0] != before[0] and other[1] != before[1]
    if array.dtype.itemsize > 1:  # signs of two numbers, which cancel in plain sums
        top = np.asarray(array).view(f"uint{8 * array.dtype.itemsize}").copy()
        top[0, 0, :2] ^= 1 << (8 * array.dtype.itemsize - 1)
        assert checksums.of_array(jnp.asarray(top.view(array.dtype))) != before
    swapped = array.at[0, 0, :2].set(array[0, 0, 1::-1])
    assert checksums.of_array(swapped) != before


def test_sums_do_not_depend_on_the_mesh():
    code = """
        import jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jax_surgery.train import checksums
        x = jax.random.normal(jax.random.key(0), (16, 8))
        mesh = jax.make_mesh((4, 2), ("a", "b"))
        for spec in (P(), P("a"), P("a", "b"), P(None, "b"), P(("a", "b"))):
            placed = jax.device_put(x, NamedSharding(mesh, spec))
            print(checksums.of_array(placed))
            program = checksums._sums.lower(placed).compile().as_text()
            # No device gets more of the array than it has.
            assert "[16,8]" not in program.partition("ENTRY")[2] or spec == P(), program
    """
    printed = on_devices.run(code).split("\n")
    assert len(set(printed[:5])) == 1


PAIR = (
    "-c",
    """
import os, pathlib, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_surgery.parallel import distributed
from jax_surgery.train.checkpoint import Checkpoints
import damage as tools

distributed.initialise()
folder = pathlib.Path(sys.argv[1])
mesh = jax.make_mesh((2,), ("d",))
whole = NamedSharding(mesh, P("d"))
make = jax.jit(lambda seed: jax.random.normal(jax.random.key(seed), (64, 64)),
               out_shardings=whole)
with Checkpoints(folder, keep=2) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, {"w": make(step)}, {"at": step})
if distributed.is_lead():  # numbers that process 1 alone reads
    [file] = (folder / "3" / "state" / "ocdbt.process_1" / "d").iterdir()
    getattr(tools, sys.argv[2])(file)
distributed.wait("damaged")
with Checkpoints(folder, keep=2) as checkpoints:
    found = checkpoints.restore({"w": make(0)})
    same = jax.jit(lambda a, b: (a == b).all())(found.state["w"], make(found.step))
    print("restored", found.step, found.loop, bool(same))
    checkpoints.save(3, {"w": make(3)}, {"at": 3})
with Checkpoints(folder, keep=2) as checkpoints:
    print("again", checkpoints.restore({"w": make(0)}).step, flush=True)
distributed.wait("done")
os._exit(0)
""",
)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_that_one_process_meets_is_passed_over_by_all(tmp_path, harm):
    pair = on_devices.start_pair([str(tmp_path / "c"), harm], 1, program=PAIR)
    for number, printed in enumerate(on_devices.ended(pair)):
        assert "restored 2 {'at': 2} True\nagain 3" in printed
        assert ("step 3" in printed and "is damaged" in printed) == (number == 0)
