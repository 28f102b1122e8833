# SPDX-License-Identifier: Apache-2.0
"""Files are there as a whole or not at all, on disks and in buckets, which are flat."""

import ast
import pathlib

import pytest
from etils import epath

from jax_surgery.storage import files

ROOT = pathlib.Path(__file__).parents[2]
# What fails on an object store, leaves half a file, or sees what is not there.
REFUSED = {
    *("iterdir", "glob", "rglob", "rmtree", "rmdir", "rename", "unlink"),
    *("write_text", "write_bytes", "copy_file"),
}
# Local files of their own.
LOCAL = {
    "jax_surgery/command_line.py",  # the packaged configs
    "jax_surgery/plan/lowering.py",
    "jax_surgery/plan/compiled/dump.py",
    "jax_surgery/parallel/distributed.py",
    "jax_surgery/train/metrics_file.py",
    "jax_surgery/runs/export.py",
}


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path) -> epath.Path:
    if request.param == "disk":
        return epath.Path(tmp_path)
    return epath.Path(request.getfixturevalue("bucket"))


def test_a_folder_that_is_absent_holds_nothing(folder):
    assert files.names(folder / "none") == files.children(folder / "none") == []
    assert list(files.matching(folder / "none", ".txt")) == []
    files.remove(folder / "none")
    files.remove_if_empty(folder / "none")


def test_what_is_written_is_listed_copied_and_removed(folder):
    files.write_text(folder / "run" / "a.txt", "Zoë")
    files.write_bytes(folder / "run" / "below" / "b.bin", b"\0\1")
    assert files.names(folder / "run") == ["a.txt", "below"]
    assert files.matching(folder / "run", ".txt") == [folder / "run" / "a.txt"]
    assert (folder / "run" / "a.txt").read_text() == "Zoë"
    files.copy(folder / "run" / "a.txt", folder / "other" / "c.txt")
    files.remove(folder / "run")
    assert files.names(folder) == ["other"]
    assert (folder / "other" / "c.txt").read_bytes() == "Zoë".encode()


def test_half_a_file_is_never_there(folder):
    file = folder / "run" / "weights"
    with pytest.raises(KeyError), files.writing(file) as opened:
        opened.write(b"x" * 6_000_000)
        raise KeyError
    assert not file.exists()
    files.write_text(file, "whole")
    with pytest.raises(KeyError), files.writing(file) as opened:
        opened.write(b"x" * 6_000_000)
        raise KeyError
    assert file.read_text() == "whole"
    assert files.names(folder / "run") == ["weights"]


def test_large_files_come_back_as_they_were_written(folder):
    pieces = [bytes([number]) * 1_000_003 for number in range(13)]
    with files.writing(folder / "large") as opened:
        for piece in pieces:
            opened.write(piece)
    with (folder / "large").open("rb") as opened:
        opened.seek(2_000_000)
        assert opened.read(9) == b"".join(pieces)[2_000_000:2_000_009]
    assert (folder / "large").read_bytes() == b"".join(pieces)


def test_a_folder_made_in_a_browser_is_empty(bucket, cloud):
    cloud.storage.put(bucket.removeprefix("gs://"), "run/", b"", "text/plain", {})
    assert files.names(f"{bucket}/run") == []


def test_what_a_failed_block_made_in_a_bucket_is_removed(bucket):
    target = epath.Path(bucket) / "model"
    with pytest.raises(KeyError), files.made(target) as folder:
        files.write_text(folder / "weights", "half")
        raise KeyError
    assert files.names(bucket) == []


def calls(source: str) -> set[str]:
    """The names of methods that a source calls, of paths or of anything else."""
    found = (n.func for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call))
    return {f.attr for f in found if isinstance(f, ast.Attribute) and not _ours(f)}


def _ours(function: ast.Attribute) -> bool:
    owner = function.value
    return isinstance(owner, ast.Name) and owner.id in ("files", "glob", "shutil")


def test_nothing_else_in_the_package_lists_writes_or_removes():
    for path in sorted((ROOT / "jax_surgery").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in LOCAL or name.startswith("jax_surgery/storage/"):
            continue
        assert not calls(path.read_text()) & REFUSED, name


def test_this_test_sees_what_it_refuses():
    assert calls("for x in folder.iterdir():\n    (a / b).unlink()") == {
        "iterdir",
        "unlink",
    }
    assert calls("files.write_text(file, text)") == set()
