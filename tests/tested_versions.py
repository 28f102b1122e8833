# SPDX-License-Identifier: Apache-2.0
"""pyproject.toml, and what constraints/tpu.txt installs within its bounds."""

import pathlib
import tomllib

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(python: str) -> dict[str, str]:
    """Versions by package on a TPU VM with that Python."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    lines = (ROOT / "constraints" / "tpu.txt").read_text().splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if not pin.marker or pin.marker.evaluate(environment):
            (exact,) = pin.specifier
            assert exact.operator == "==" and pin.name not in found, line
            found[canonicalize_name(pin.name)] = exact.version
    return found
