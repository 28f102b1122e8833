# SPDX-License-Identifier: Apache-2.0
"""constraints/tpu.txt has one version of each package, inside the bounds of pyproject.toml."""

import pathlib
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def pins(python: str) -> dict[str, str]:
    """Versions by package on a TPU VM with that Python."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    lines = (ROOT / "constraints" / "tpu.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if not pin.marker or pin.marker.evaluate(environment):
            (exact,) = pin.specifier
            assert exact.operator == "==" and pin.name not in found, line
            found[canonicalize_name(pin.name)] = exact.version
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_each_dependency_has_a_version_within_its_bounds(python):
    found = pins(python)
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["tpu"]
    for requirement in map(Requirement, asked):
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (str(requirement), version)
    assert {"jaxlib", "libtpu", "tensorstore"} <= set(found)
    assert found["jax"] == found["jaxlib"]


def test_a_newer_python_takes_the_newer_jax():
    assert pins("3.11")["jax"] != pins("3.12")["jax"]
