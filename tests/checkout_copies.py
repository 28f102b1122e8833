# SPDX-License-Identifier: Apache-2.0
"""Copies of this checkout without what git ignores, for tests of installations."""

import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]


LIST = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]


def _listed() -> str:
    """Names of the checkout's files that git does not ignore, separated by NUL; also of a
    copy without a history, such as an unpacked source archive."""
    how = {"cwd": ROOT, "capture_output": True, "text": True}
    found = subprocess.run(["git", *LIST], check=False, **how)
    if not found.returncode:
        return found.stdout
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run(["git", "init", "--quiet", "--bare", empty], check=True)
        beside = [f"--git-dir={empty}", f"--work-tree={ROOT}"]
        return subprocess.run(["git", *beside, *LIST], check=True, **how).stdout


def copy(target: pathlib.Path) -> pathlib.Path:
    """Copies the checkout's files, committed or not, without its history; needs git."""
    for name in filter(None, _listed().split("\0")):
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
