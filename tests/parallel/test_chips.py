# SPDX-License-Identifier: Apache-2.0
"""The check that JAX sees every chip of a TPU VM, with machines that say how many."""

import io
import types

import pytest

from jax_surgery.parallel import backend, chips

METADATA = b"""ACCELERATOR_TYPE: 'v5litepod-16'
CHIPS_PER_HOST_BOUNDS: '2,2,1'
HOST_BOUNDS: '2,2,1'
WORKER_ID: '0'
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this look like a TPU VM; `metadata` None is a machine outside the cloud."""
    config = types.SimpleNamespace(update=lambda name, value: None)
    monkeypatch.setattr(chips.jax, "config", config)
    monkeypatch.setattr(chips.jax, "process_count", lambda: 4)
    monkeypatch.setattr(
        backend, "DEVICES", (f"{tmp_path}/accel*", f"{tmp_path}/[0-9]*")
    )
    for name in ("TPU_CHIPS_PER_HOST_BOUNDS", *chips.HIDING):
        monkeypatch.delenv(name, raising=False)

    def make(devices=(), files=0, metadata: bytes | None = None):
        for i in range(files):
            (tmp_path / f"accel{i}").touch()

        def answer(request, timeout):
            assert request.get_header("Metadata-flavor") == "Google" and timeout
            if metadata is None:
                raise OSError("no such host")
            return io.BytesIO(metadata)

        def local_devices():
            if isinstance(devices, Exception):
                raise devices
            return list(devices)

        monkeypatch.setattr(chips.urllib.request, "urlopen", answer)
        monkeypatch.setattr(chips.jax, "local_devices", local_devices)
        monkeypatch.setattr(chips.jax, "devices", lambda: grid(4, 4))

    return make


def grid(wide: int, high: int, cores: int = 1) -> list:
    """Devices of chips that lie side by side."""
    return [
        types.SimpleNamespace(
            coords=[x, y, 0], device_kind="TPU v5 lite", core_on_chip=c
        )
        for x in range(wide)
        for y in range(high)
        for c in range(cores)
    ]


def test_all_chips_are_counted_and_what_says_so_is_named(machine):
    machine(grid(2, 2), files=4, metadata=METADATA)
    assert chips.check() == (
        "4 of 4 chips here: TPU v5 lite (4 by the VM's metadata, 4 by "
        f"{backend.DEVICES[0]}); 16 in the slice, on 4 hosts"
    )


def test_two_cores_of_a_chip_are_one_chip(machine):
    machine(grid(2, 2, cores=2), metadata=METADATA)
    assert chips.check().startswith("4 of 4 chips here")


@pytest.mark.parametrize("files", [0, 3])
def test_a_chip_that_is_missing_is_an_error_of_found_and_expected(machine, files):
    machine(grid(3, 1), files, METADATA)
    with pytest.raises(RuntimeError, match="sees 3 of 4 chips .*Reboot the VM"):
        chips.check()


def test_bounds_in_the_environment_count(machine, monkeypatch):
    machine(grid(2, 2))
    monkeypatch.setenv("TPU_CHIPS_PER_HOST_BOUNDS", "2,4,1")
    with pytest.raises(
        RuntimeError, match="4 of 8 chips .expected: 8 by TPU_CHIPS_PER"
    ):
        chips.check()


def test_chips_that_a_variable_hides_are_said(machine, monkeypatch):
    machine(grid(1, 1), metadata=METADATA)
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0")
    with pytest.raises(
        RuntimeError, match="1 of 4 .* Unset TPU_VISIBLE_CHIPS=0, which"
    ):
        chips.check()


def test_a_tpu_that_cannot_be_opened_says_why(machine):
    machine(RuntimeError("already in use by process 7"), metadata=METADATA)
    with pytest.raises(RuntimeError, match="4 by the VM's metadata.*process 7.*lsof"):
        chips.check()


@pytest.mark.parametrize("metadata", [None, b"", b"CHIPS_PER_HOST_BOUNDS: 'x'\n"])
def test_a_machine_without_a_tpu_is_told_so(machine, metadata, capsys):
    machine(grid(1, 1), metadata=metadata)
    with pytest.raises(SystemExit, match="^error: this machine has no TPU: .*found 0"):
        chips.main()


def test_what_was_found_is_printed(machine, capsys):
    machine(grid(2, 2), metadata=METADATA)
    chips.main()
    assert capsys.readouterr().out.startswith("devices: 4 of 4 chips here")
