# SPDX-License-Identifier: Apache-2.0
"""The kind of device is chosen before JAX looks for any."""

import os
import subprocess
import sys

import pytest

from jax_surgery.parallel import backend

RUN = """
import jax
from jax_surgery.parallel import backend, distributed
backend.has_plugins = lambda: False
distributed.initialise()
print(jax.config.values["jax_platforms"], jax.default_backend())
"""


def test_without_a_tpu_libtpu_is_not_tried_and_nothing_is_printed():
    if backend.has_tpu():
        pytest.skip("this machine has a TPU")
    others = {n: v for n, v in os.environ.items() if n != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        check=True,
        env=others,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["cpu", "cpu"], done.stderr
    assert "TPU" not in done.stderr and "INVALID_ARGUMENT" not in done.stderr


@pytest.mark.parametrize(
    "platforms, tpu, plugins, chosen",
    [
        ("", False, False, "cpu"),
        ("", True, False, ""),
        ("", False, True, ""),
        ("cuda", False, False, "cuda"),
    ],
)
def test_the_cpu_is_taken_where_there_is_nothing_else(
    monkeypatch, platforms, tpu, plugins, chosen
):
    found = {"jax_platforms": platforms}
    monkeypatch.setattr(backend.jax, "config", jax_config(found))
    monkeypatch.setattr(backend, "has_tpu", lambda: tpu)
    monkeypatch.setattr(backend, "has_plugins", lambda: plugins)
    backend.choose()
    assert found["jax_platforms"] == chosen


def jax_config(values):
    class Config:
        pass

    made = Config()
    made.values, made.update = values, values.__setitem__
    return made


@pytest.mark.parametrize("name", backend.VARIABLES)
def test_variables_of_a_tpus_host_are_seen(monkeypatch, name):
    monkeypatch.setattr(backend, "DEVICES", ())
    monkeypatch.setenv(name, "0")
    assert backend.has_tpu()
