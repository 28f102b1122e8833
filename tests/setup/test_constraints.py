# SPDX-License-Identifier: Apache-2.0
"""constraints/tpu.txt has one version of each package, inside the bounds of pyproject.toml."""

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tested_versions import PYPROJECT, pins

PROJECT = PYPROJECT["project"]


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
