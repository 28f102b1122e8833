# SPDX-License-Identifier: Apache-2.0
"""Weights over eight simulated devices, over two processes, and their host memory."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
import weights_on_devices

HERE = pathlib.Path(__file__).parent


def start(script: str, *arguments: str, devices: int) -> subprocess.Popen:
    """A Python that sees that many CPU devices, running a script of this folder."""
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(process: subprocess.Popen) -> dict:
    """The JSON object that ends its output."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory) -> dict[str, str]:
    folder = str(tmp_path_factory.mktemp("weights"))
    return results(start("weights_on_devices.py", folder, devices=8))


@pytest.mark.parametrize("name", weights_on_devices.CHECKS)
def test_on_eight_devices(on_devices, name):
    assert not on_devices[name], on_devices[name]


def test_on_two_processes(tmp_path):
    tensors = weights_on_devices.file_tensors(weights_on_devices.GQA)
    weights_on_devices.write(tmp_path / "gqa", weights_on_devices.GQA, tensors)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    arguments = ("weights_on_devices.py", str(tmp_path), address, "2")
    processes = [start(*arguments, str(index), devices=4) for index in range(2)]
    for process in processes:
        failed = results(process)["two_processes"]
        assert not failed, failed
