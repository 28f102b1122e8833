# SPDX-License-Identifier: Apache-2.0
"""Many command lines in one process, which loads the program once and forks for each."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# JAX makes its threads when it first looks for devices, in the forks alone.
SERVE = """
import gc, json, os, sys, tempfile
from absl import app
from jax_surgery import command_line, main
from jax_surgery.runs import settings, start
for run in settings.RUNS.values():
    run.load()
gc.freeze()
for line in sys.stdin:
    arguments = json.loads(line)
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["main", *arguments]
        code = 0
        try:
            app.run(main.main, flags_parser=command_line.parse_flags)
        except SystemExit as ended:
            code = ended.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # to take all modules down would take longer than the rest
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = []
    for file in (out, err):
        file.seek(0)
        said.append(file.read().decode("utf-8", "replace"))
    print(json.dumps([code, *said]), flush=True)
"""


class Ended(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


def run(command_lines: list[list[str]], cwd: pathlib.Path = ROOT) -> list[Ended]:
    """What each command line prints, and the code with which it ends."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        input="".join(json.dumps(line) + "\n" for line in command_lines),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [Ended(*json.loads(line)) for line in done.stdout.splitlines()]


def check_one_line(ended: Ended, message: str, code: int = 2) -> None:
    """Asserts that a command ended with one error that says `message`."""
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == code, ended
    assert len(errors) == 1, ended
    assert "Traceback" not in ended.err, ended
    assert message in ended.err, ended
