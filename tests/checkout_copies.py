# SPDX-License-Identifier: Apache-2.0
"""Copies of this checkout without what git ignores, for tests of installations."""

import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[1]


def copy(target: pathlib.Path) -> pathlib.Path:
    """Copies the checkout's files, committed or not, without its history; needs git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copied = ROOT / name, target / name
        if os.path.lexists(source):  # else it is deleted, and not yet committed
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copied, follow_symlinks=False)
    return target


def commit(folder: pathlib.Path, tag: str) -> None:
    """Makes a folder a repository with one commit, which has a tag where one is named."""
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*who, "commit", "--quiet", "--message=all"],
        *([["tag", tag]] if tag else []),
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
