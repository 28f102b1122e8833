# SPDX-License-Identifier: Apache-2.0
"""Another checkout of this repository, to be measured in turn with this one.

    python -P results/checkouts.py FD DIR FOLDER

serves the checkout's own step over a pipe, as `cpu_speed.serve_ours` does, for a caller
that has set PYTHONPATH to the checkout: what its script imports is the checkout's.
"""

import os
import pathlib
import subprocess
import sys
from multiprocessing.connection import Connection

FOLDERS = ("results", "benchmarks")  # where scripts lie, of older versions last


def script(checkout: str, name: str) -> pathlib.Path:
    """A checkout's own script of this name.

    Raises:
      FileNotFoundError: it has none.
    """
    for folder in FOLDERS:
        file = pathlib.Path(checkout).resolve() / folder / name
        if file.exists():
            return file
    raise FileNotFoundError(
        f"--before={checkout} has {name} neither in {' nor in '.join(FOLDERS)}; give the "
        "directory of a checkout of this repository."
    )


def environment(file: pathlib.Path) -> dict[str, str]:
    """The environment in which a checkout's script finds its own package."""
    paths = [str(file.parents[1]), str(file.parent)]
    found = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    # A program that was compiled before takes no time to compile.
    found.pop("JAX_COMPILATION_CACHE_DIR", None)
    return found


def commit(checkout: str) -> str:
    """The commit that is checked out, short."""
    command = ["git", "-C", checkout, "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def serve(connection: Connection, directory: str, folder: str) -> None:
    """Answers numbers of steps with the checkout's (seconds, metrics)."""
    import cpu_speed  # the checkout's

    model, _, batches, _ = cpu_speed.prepare(directory, folder)
    racer = cpu_speed.Racer(cpu_speed.serve_ours, model, batches, "cached")
    while count := connection.recv():
        connection.send(racer.run(count))
    connection.send(racer.end() * 2**30)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), *sys.argv[2:])
