# SPDX-License-Identifier: Apache-2.0
"""Compiles for a TPU and reads what the compiler writes about the program.

XLA writes that to files. Memory is known within seconds, before code generation, which
takes minutes: `watch` starts a compilation in another process and ends it there.
`compile_program` waits for the whole, and reads the schedule too. (The schedule could
be `compiled.as_text()`, but XLA fails to print some programs for v6e and v5p.)
"""

import os
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax

from jax_surgery.plan.compiled import memory, schedule

# What `memory.read` takes, in order, and what `schedule.read` takes; of TPU programs.
MEMORY_FILES = (
    "after_optimizations-buffer-assignment.txt",
    "after_optimizations-memory-usage-report.txt",
)
OPTIMIZED_FILE = "after_optimizations.txt"
SCHEDULE_FILE = "after_codegen.txt"
# Written when the compiler has accepted the memory that it assigned, and goes on to
# code generation. A program that is too large ends with an error instead.
ACCEPTED_FILE = "after_optimizations_after_buffer_assignment.txt"
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
      program: "jit_step" for `def step`; any by default.

    Returns:
      None while there is none, or while it is still being written.
    """
    texts = _files(pathlib.Path(folder), program, MEMORY_FILES)
    try:
        return memory.read(*texts) if texts else None
    except ValueError:
        return None


def read_schedule(folder: str, program: str = "*") -> schedule.Schedule:
    """The schedule of a program, from the files in a folder that XLA dumped to.

    Raises:
      FileNotFoundError: the compilation did not get as far.
    """
    texts = _files(pathlib.Path(folder), program, (SCHEDULE_FILE,))
    if not texts:
        raise FileNotFoundError(
            f"{folder} has no {SCHEDULE_FILE} of {program}: no TPU program of that "
            "name was compiled to its end, or a compilation cache held it."
        )
    return schedule.read(texts[0])


def compile_program(
    lowered: jax.stages.Lowered,
) -> tuple[jax.stages.Compiled, memory.Memory, schedule.Schedule]:
    """Compiles for the TPUs that a program was lowered for.

    Args:
      lowered: of `jax.jit(step).lower(...)`, its arguments on `topologies.devices`.

    Raises:
      DoesNotFit: it needs more memory than a chip has.
      RuntimeError: the compiler failed otherwise, or its files cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if excess := memory.out_of_memory(str(error)):
                raise DoesNotFit(*excess) from error
            raise
        needed = read_memory(folder)
        if needed is None:
            raise RuntimeError(
                "the compiler wrote no memory report that could be read; this reader "
                "was written for libtpu 0.0.51 and 0.0.52."
            )
        return compiled, needed, read_schedule(folder)


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


def watch(
    command: Sequence[str], program: str = "*", timeout: float = 600.0
) -> tuple[memory.Memory, schedule.Schedule]:
    """Runs a command that compiles for a TPU, only until its memory is known.

    The schedule has the collectives and kernels, and no cycles yet.

    Args:
      command: to be run in this process's folder and environment.
      program: which of the programs that it compiles: "jit_step" for `def step`; the
        first by default.
      timeout: seconds.

    Raises:
      DoesNotFit: the program needs more memory than a chip has.
      RuntimeError: the command failed otherwise, or compiled no such program; its last
        lines are in the message.
      TimeoutError: nothing was known in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, dumped = pathlib.Path(folder, "output"), pathlib.Path(folder, "dump")
        with output.open("w") as lines:
            child = subprocess.Popen(
                command,
                stdout=lines,
                stderr=subprocess.STDOUT,
                env=_environment(str(dumped)),
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        try:
            while child.poll() is None and time.monotonic() < deadline:
                if _files(dumped, program, (ACCEPTED_FILE,)) and read_memory(
                    str(dumped), program
                ):
                    break
                time.sleep(_POLL)
            ended = child.poll()
        finally:
            _end(child)
        needed = read_memory(str(dumped), program)
        texts = _files(dumped, program, [OPTIMIZED_FILE])
        printed = output.read_text()
    if excess := memory.out_of_memory(printed):
        raise DoesNotFit(*excess)
    if needed is not None and not ended:
        return needed, schedule.read(texts[0], timed=False)
    last = "\n".join(printed.splitlines()[-20:])
    if ended is None:
        raise TimeoutError(
            f"the memory of {program} was not known after {timeout:g} s:\n{last}"
        )
    raise RuntimeError(
        f"{' '.join(command)} ended with status {ended}, and compiled no {program} for "
        f"a TPU whose memory could be read:\n{last}"
    )
