# SPDX-License-Identifier: Apache-2.0
"""Runs code on simulated devices: JAX takes their number once, when it starts."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
# Of a small program's compilation XLA's fusion emitters take three quarters. jaxlib 0.10
# can do without; later ones do not know the flag, and end the process that asks.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else ""
)


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
