# SPDX-License-Identifier: Apache-2.0
"""gs:// without a cloud: a local folder serves its paths in place of gcsfs."""

import pathlib

from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class Bucket(DirFileSystem):
    """A local folder that serves gs:// paths."""

    def _join(self, path):
        return super()._join(str(path).removeprefix("gs://"))


def serve(folder: pathlib.Path, monkeypatch) -> pathlib.Path:
    """Lets `etils.epath` find gs://NAME in a folder; returns that folder."""
    local = LocalFileSystem(auto_mkdir=True)
    files = Bucket(str(folder / "buckets"), local)
    monkeypatch.setattr(
        backend.fsspec_backend,
        "fs",
        lambda path: files if str(path).startswith("gs://") else local,
    )
    return folder / "buckets"
