# SPDX-License-Identifier: Apache-2.0
"""Disks of a few MiB, which fill up."""

import contextlib
import pathlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str):
    """A disk of its own at a folder; skips where none can be made."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
