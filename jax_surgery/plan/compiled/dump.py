# SPDX-License-Identifier: Apache-2.0
"""Compiles for a TPU and reads what the compiler writes about the program.

XLA writes that to files. The compilation has a process of its own, which can be ended
where memory is all that is asked: that is known within seconds, before code generation,
which takes minutes. (The schedule could be `compiled.as_text()`, but XLA fails to print
some programs for v6e and v5p.)
"""

import math
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from jax_surgery.plan.compiled import memory, schedule

# What `memory.read` takes, in order; of TPU programs.
MEMORY_FILES = (
    "after_optimizations-buffer-assignment.txt",
    "after_optimizations-memory-usage-report.txt",
)
# Written when the compiler has accepted the memory that it assigned, and goes on to
# code generation. A program that is too large ends with an error instead.
ACCEPTED_FILE = "after_optimizations_after_buffer_assignment.txt"
# What `schedule.read` takes, without cycles and with them.
OPTIMIZED_FILE = "after_optimizations.txt"
SCHEDULE_FILE = "after_codegen.txt"
_POLL = 0.05  # seconds


class DoesNotFit(ValueError):
    """A program needs more memory than a chip has.

    Attributes:
      needed, available: bytes of a chip.
    """

    def __init__(self, needed: float, available: float):
        super().__init__(
            f"the program needs {needed / 2**30:.2f} GiB of a chip's "
            f"{available / 2**30:.2f} GiB."
        )
        self.needed, self.available = needed, available


def _files(folder: pathlib.Path, program: str, names: Sequence[str]) -> list[str]:
    """The texts of the first program of that name; [] while one is missing."""
    last = sorted(folder.glob(f"module_*.{program}.cl_*.{names[-1]}"))
    if not last:
        return []
    stem = last[0].name.removesuffix(names[-1])
    paths = [folder / (stem + name) for name in names]
    return [p.read_text() for p in paths] if all(p.exists() for p in paths) else []


def read_memory(folder: str, program: str = "*") -> memory.Memory | None:
    """The memory of a program, from the files in a folder that XLA dumped to.

    Args:
      folder: of the dump.
      program: "jit_step" for `def step`; the first that there is by default.

    Returns:
      None while it is not known, or still being written.
    """
    texts = _files(pathlib.Path(folder), program, (*MEMORY_FILES, ACCEPTED_FILE))
    try:
        return memory.read(*texts[:2]) if texts else None
    except ValueError:
        return None


def read_schedule(
    folder: str, program: str = "*", whole: bool = True
) -> schedule.Schedule | None:
    """The schedule of a program, from the same files; None while there is none.

    Args:
      whole: False reads it before code generation: what it does, without cycles.
    """
    name = SCHEDULE_FILE if whole else OPTIMIZED_FILE
    texts = _files(pathlib.Path(folder), program, [name])
    return schedule.read(texts[0], timed=whole) if texts else None


def _environment(folder: str) -> dict[str, str]:
    """This process's, with flags that make any program dump what it compiles."""
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    return os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what it holds is not compiled
    }


def _end(child: subprocess.Popen[Any]) -> None:
    """Ends a child and what it started; a compilation does not react to SIGTERM."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def compiled(
    command: Sequence[str],
    program: str = "*",
    whole: bool = False,
    timeout: float = math.inf,
) -> tuple[memory.Memory, schedule.Schedule]:
    """Runs a command that compiles for a TPU, and reads what is then known.

    Args:
      command: to be run in this process's folder and environment.
      program: which of the programs that it compiles: see `read_memory`.
      whole: whether to wait for its end; else it is ended when memory is known, and the
        schedule has no cycles.
      timeout: seconds that it may take.

    Raises:
      DoesNotFit: the program needs more memory than a chip has.
      RuntimeError: the command failed otherwise, or compiled no such program; its last
        lines are in the message.
      TimeoutError: it took longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, dumped = pathlib.Path(folder, "output"), os.path.join(folder, "dump")
        with output.open("w") as lines:
            child = subprocess.Popen(
                command,
                stdout=lines,
                stderr=subprocess.STDOUT,
                env=_environment(dumped),
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        try:
            while child.poll() is None and time.monotonic() < deadline:
                if not whole and read_memory(dumped, program):
                    break
                time.sleep(_POLL)
            ended = child.poll()
        finally:
            _end(child)
        needed = read_memory(dumped, program)
        operations = None if ended else read_schedule(dumped, program, whole)
        printed = output.read_text()
    if excess := memory.out_of_memory(printed):
        raise DoesNotFit(*excess)
    if needed and operations:
        return needed, operations
    last = "\n".join(printed.splitlines()[-20:])
    if ended is None:
        raise TimeoutError(
            f"the memory of {program} was not known after {timeout:g} s:\n{last}"
        )
    raise RuntimeError(
        f"{' '.join(command)} ended with status {ended}, and compiled no {program} for "
        f"a TPU whose memory could be read (this reader was written for libtpu 0.0.51 "
        f"and 0.0.52):\n{last}"
    )
