# SPDX-License-Identifier: Apache-2.0
"""Our safetensors files are the library's, ranges are what they say, broken ones not."""

import json

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.storage import files


def tensors(dtype, *shapes):
    rng = np.random.default_rng(len(shapes))
    return {
        f"t{i}": rng.normal(size=shape).astype(dtype) for i, shape in enumerate(shapes)
    }


@pytest.mark.parametrize("dtype", safetensors_file.DTYPES.values())
def test_the_library_reads_what_is_written_and_back(tmp_path, dtype):
    wanted = tensors(dtype, (5, 7), (3,), (2, 1), (0, 4))
    ours, theirs = (epath.Path(tmp_path / name) for name in ("ours", "theirs"))
    layout = {name: (t.shape, np.dtype(dtype)) for name, t in wanted.items()}
    safetensors_file.write(ours, layout, iter(wanted.values()))
    read = load_file(ours)
    save_file(wanted, theirs)
    entries = safetensors_file.read_header(theirs)
    assert set(read) == set(entries) == set(wanted)
    for name, tensor in wanted.items():
        assert read[name].dtype == entries[name].dtype == tensor.dtype
        assert read[name].tobytes() == tensor.tobytes()
        assert entries[name].shape == tensor.shape
        if len(tensor):
            rows = safetensors_file.read_rows(entries[name], 0, len(tensor))
            assert rows.tobytes() == tensor.tobytes()


@settings(max_examples=40)
@given(data=st.data())
def test_a_range_of_rows_is_read_in_reads_of_any_size(data, tmp_path_factory):
    count = data.draw(st.integers(1, 40))
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    wanted = tensors(ml_dtypes.bfloat16, (3, 2), (count, 3))
    file = epath.Path(tmp_path_factory.mktemp("rows") / "file")
    save_file(wanted, file)
    entry = safetensors_file.read_header(file)["t1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_file, "CHUNK", data.draw(st.integers(1, 50)))
        rows = safetensors_file.read_rows(entry, start, stop)
    assert rows.tobytes() == wanted["t1"][start:stop].tobytes()


def test_files_that_are_broken_say_so(tmp_path):
    whole = epath.Path(tmp_path / "whole")
    save_file(tensors(np.float32, (4, 4)), whole)
    data = whole.read_bytes()
    for name, content, message in (
        ("short", data[:-1], r"has \d+ bytes, but its header says \d+"),
        ("long", data + b"x", r"has \d+ bytes, but its header says \d+"),
        ("cut", data[:20], "not a safetensors file"),
        ("text", b"version https://git-lfs.github.com/spec/v1", "not a safetensors"),
        ("empty", b"", "not a safetensors file"),
    ):
        file = epath.Path(tmp_path / name)
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            safetensors_file.read_header(file)


@pytest.mark.parametrize(
    "part",
    [
        [],
        "F32",
        {"dtype": "F32", "shape": [2, 3]},
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, -3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3.0], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": 6, "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [24]},
        {"dtype": ["F32"], "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 24]},
    ],
)
def test_a_header_that_does_not_fit_together_says_so(tmp_path, part):
    file = epath.Path(tmp_path / "a.safetensors")
    raw = json.dumps({"w": part}).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(24))
    with pytest.raises(ValueError, match="is not a safetensors file") as error:
        safetensors_file.read_header(file)
    assert "\n" not in str(error.value)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_beginning_is_read_or_refused_in_one_line(data, tmp_path_factory):
    file = epath.Path(tmp_path_factory.getbasetemp() / "damaged.safetensors")
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, file)
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        entries = safetensors_file.read_header(file)
    except ValueError as error:
        assert "\n" not in str(error) and str(file) in str(error)
    else:
        known = [e for e in entries.values() if e.kind in safetensors_file.KINDS]
        assert all(e.offset + e.nbytes <= len(raw) for e in known)


def test_what_differs_from_its_header_is_not_written(tmp_path):
    wrong = [np.zeros((2, 3), np.float32)]
    file = epath.Path(tmp_path / "file")
    with pytest.raises(ValueError, match=r"x is float32 \(2, 3\)"):
        safetensors_file.write(file, {"x": ((3, 2), np.dtype(np.float32))}, wrong)


def test_only_the_rows_asked_for_are_read(tmp_path):
    """A file of which everything else is absent serves them."""
    file = epath.Path(tmp_path / "file")
    header = {"x": {"dtype": "F32", "shape": [100, 2**20], "data_offsets": [0, 0]}}
    header["x"]["data_offsets"][1] = 100 * 2**22
    raw = json.dumps(header).encode()
    with file.open("wb") as opened:  # sparse: 400 MiB that are not on the disk
        opened.write(len(raw).to_bytes(8, "little") + raw)
        opened.seek(8 + len(raw) + 70 * 2**22)
        opened.write(np.arange(2**20, dtype=np.float32).tobytes())
        opened.truncate(8 + len(raw) + 100 * 2**22)
    entry = safetensors_file.read_header(file)["x"]
    rows = safetensors_file.read_rows(entry, 70, 71)
    assert rows.shape == (1, 2**20)
    np.testing.assert_array_equal(rows[0], np.arange(2**20))


def test_text_and_bytes_lie_beside_weights(tmp_path):
    file = epath.Path(tmp_path / "file")
    held = {"w": np.ones((2, 3), np.float32), "raw": np.arange(5, dtype=np.uint8)}
    layout = {name: (tensor.shape, tensor.dtype) for name, tensor in held.items()}
    safetensors_file.write(file, layout, held.values(), {"own": "words"})
    assert safetensors_file.read_metadata(file) == {"format": "pt", "own": "words"}
    read, entries = load_file(file), safetensors_file.read_header(file)
    for name, tensor in held.items():
        np.testing.assert_array_equal(read[name], tensor)
        rows = safetensors_file.read_rows(entries[name], 1, 2)
        np.testing.assert_array_equal(rows, tensor[1:2])


@settings(max_examples=40)
@given(data=st.data())
def test_a_rewritten_file_differs_in_what_changed_alone(data, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("rewrite"))
    held = tensors(ml_dtypes.bfloat16, (4, 2), (5, 3), (2, 2), (7, 1))
    held["numbers"] = np.arange(5)  # of a dtype that is not read
    save_file(held, folder / "old", {"own": "words"})
    names = data.draw(st.sets(st.sampled_from(["t0", "t1", "t3"])))
    asked, told = [], []

    def doubled(start, rows):
        asked.append((start, len(rows)))
        return rows * 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_file, "CHUNK", data.draw(st.integers(1, 50)))
        safetensors_file.rewrite(
            folder / "old",
            folder / "new",
            dict.fromkeys(names, doubled),
            elements=data.draw(st.integers(1, 20)),
            progress=told.append,
        )
    wanted = {n: t * 2 if n in names else t for n, t in held.items()}
    save_file(wanted, folder / "wanted", {"own": "words"})
    assert (folder / "new").read_bytes() == (folder / "wanted").read_bytes()
    assert sum(told) == len((folder / "old").read_bytes())
    assert sum(count for _, count in asked) == sum(len(held[n]) for n in names)


def test_a_change_of_shape_is_refused(tmp_path):
    old, new = epath.Path(tmp_path / "old"), epath.Path(tmp_path / "new")
    save_file(tensors(np.float32, (4, 2)), old)
    change = {"t0": lambda start, rows: rows[:, :1]}
    with pytest.raises(ValueError, match=r"t0 became float32 \(4, 1\); .*\(4, 2\)"):
        safetensors_file.rewrite(old, new, change, elements=100)


def test_what_is_made_appears_whole_or_not_at_all(tmp_path):
    file, folder = epath.Path(tmp_path / "file"), epath.Path(tmp_path / "folder")
    file.write_text("old")
    folder.mkdir()

    def write(words):
        with files.made(file) as partial:
            partial.write_text(words)
            assert file.read_text() == "old"
            assert words
        with files.made(folder) as partial:
            partial.mkdir()
            (partial / "in").write_text(words)
            assert not list(folder.iterdir())
            assert words != "bad"

    for words, kept in (("", "old"), ("bad", "bad")):
        with pytest.raises(AssertionError):
            write(words)
        assert file.read_text() == kept
        assert not list(folder.iterdir())
        file.write_text("old")
    write("new")
    assert file.read_text() == (folder / "in").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
