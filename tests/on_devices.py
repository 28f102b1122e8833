# SPDX-License-Identifier: Apache-2.0
"""Runs code on simulated devices, in a new process: JAX reads their number at start."""

import importlib.metadata
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
# A small program is compiled as a whole: its parts, in threads, take longer.
QUICK = "--xla_cpu_parallel_codegen_split_count=1"
# XLA's fusion emitters take three quarters of a small program's compilation. jaxlib 0.10
# can do without; later ones do not know the flag, and end the process that asks.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"


def environment(devices: int, **variables: str) -> dict[str, str]:
    """This process' environment, with `devices` CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICK}".strip()
    # What a test's code takes from the test's own file is found in any folder of tests.
    folders = {str(file.parent) for file in (ROOT / "tests").rglob("test_*.py")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sorted(folders)])
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path} | variables


def run(code: str, devices: int = 8, **variables: str) -> str:
    """Runs Python code on `devices` CPU devices; returns what it prints.

    Fails with the code's own error where it raises one.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=False,
        env=environment(devices, **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr[-4000:]
    return done.stdout


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


MAIN = ("-m", "jax_surgery.main")
# The same program, in which each batch takes a while, so that a signal finds it at work.
SLOW_MAIN = (
    "-c",
    """
import time
from absl import app
from jax_surgery import command_line, main
from jax_surgery.data.stream import BatchStream
def slow(self, draw=BatchStream.__next__):
    time.sleep(0.05)
    return draw(self)
BatchStream.__next__ = slow
app.run(main.main, flags_parser=command_line.parse_flags)
""",
)


def start(
    arguments, devices: int, cwd=ROOT, program=MAIN, **variables: str
) -> subprocess.Popen:
    """Starts the program on `devices` CPU devices."""
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        env=environment(devices, **variables),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_pair(
    arguments, devices: int, cwd=ROOT, program=MAIN
) -> list[subprocess.Popen]:
    """Starts one run in two processes of `devices` CPU devices each."""
    address = f"localhost:{free_port()}"
    return [
        start(
            arguments,
            devices,
            cwd,
            program,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(place),
        )
        for place in range(2)
    ]


def ended(processes, code: int = 0) -> list[str]:
    """What processes printed; fails where one ends with another exit code."""
    printed = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == code, text[-3000:]
    return printed
