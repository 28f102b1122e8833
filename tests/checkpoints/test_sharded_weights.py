# SPDX-License-Identifier: Apache-2.0
"""Weights over eight simulated devices, over two processes, and their host memory."""

import json
import pathlib
import socket
import subprocess
import sys

import on_devices
import pytest
import weights_on_devices

SCRIPT = pathlib.Path(weights_on_devices.__file__)


def start(*arguments: str, devices: int) -> subprocess.Popen:
    """`weights_on_devices` in a process with that many CPU devices."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env=on_devices.environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(process: subprocess.Popen) -> dict[str, str]:
    """Each check's traceback, "" where it passed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> dict[str, str]:
    return results(start(str(tmp_path_factory.mktemp("weights")), devices=8))


@pytest.mark.slow
@pytest.mark.parametrize("name", weights_on_devices.CHECKS)
def test_on_eight_devices(checked, name):
    if name == "memory" and not pathlib.Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory is read from Linux' /proc")
    assert not checked[name], checked[name]


@pytest.mark.slow
def test_on_two_processes(tmp_path):
    tensors = weights_on_devices.file_tensors(weights_on_devices.GQA)
    weights_on_devices.write(tmp_path / "gqa", weights_on_devices.GQA, tensors)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        start(str(tmp_path), address, "2", str(index), devices=4) for index in range(2)
    ]
    for process in processes:
        failed = results(process)["two_processes"]
        assert not failed, failed
