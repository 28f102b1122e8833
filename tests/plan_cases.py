# SPDX-License-Identifier: Apache-2.0
"""Settings of plan runs, and the mark of tests that need libtpu."""

import importlib.util

import jax
import pytest

from configs import plan as plan_config
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import lowering, programs
from jax_surgery.plan.settings import PlanSettings
from jax_surgery.runs import settings

GIB, GB = 2**30, 1e9
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(
    not HAS_LIBTPU, reason="libtpu is not installed (the extra `plan`)"
)


def planned(base: str = "", **changes) -> PlanSettings:
    config = plan_config.get_config(base)
    for field, value in changes.items():
        config[field] = value
    return settings.from_config(config)


def called(name: str, settings: PlanSettings) -> programs.Call:
    """A program on this machine's CPU; nothing is compiled."""
    mesh = meshes.make_mesh(settings.surgery.mesh, jax.devices())
    config = lowering.architecture_of(settings.model)
    return lowering.call(name, settings, config, mesh)
