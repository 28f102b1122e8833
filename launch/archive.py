# SPDX-License-Identifier: Apache-2.0
"""This checkout as an archive: what git tracks, and what it does not ignore."""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import tarfile

from launch.errors import LaunchError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def files() -> list[str]:
    """Paths of the checkout's files, new ones too: your own text goes along.

    Raises:
      LaunchError: it is no checkout of git.
    """
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    try:
        found = subprocess.run(
            [*command, "--exclude-standard"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(
            f"{ROOT} is no git checkout, so what is to be copied is not known; get one "
            "with 'git clone'."
        ) from error
    paths = sorted(set(found.stdout.decode().split("\0")) - {""})
    return [path for path in paths if (ROOT / path).is_file()]


def pack_command(target: pathlib.Path) -> str:
    """A shell's command that does what `pack` does."""
    there = shlex.quote(str(ROOT))
    return (
        f"git -C {there} ls-files -z --cached --others --exclude-standard | "
        f"tar -C {there} --null -czf {shlex.quote(str(target))} -T -"
    )


def pack(target: pathlib.Path) -> int:
    """Writes the archive; returns the number of files."""
    paths = files()
    with tarfile.open(target, "w:gz") as archive:
        for path in paths:
            archive.add(ROOT / path, arcname=path)
    return len(paths)
