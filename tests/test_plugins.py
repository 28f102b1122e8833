# SPDX-License-Identifier: Apache-2.0
"""Plug-ins by name: options become fields, and mistakes are named."""

import dataclasses
from typing import Literal

import pytest

from jax_surgery import plugins


@dataclasses.dataclass(frozen=True)
class Member:
    """A plug-in with an option of every type."""

    rate: float = 1e-3
    steps: int = 80
    at: tuple[int, ...] = (5, 10)
    mean: bool = False
    order: Literal["up", "down"] = "up"
    name: str = "a"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1.")


TABLE = {"member": Member}


@pytest.mark.parametrize(
    "spec, wanted",
    [
        ("member", Member()),
        ("member:", Member()),
        ("member:rate=3e-4,steps=5", Member(rate=3e-4, steps=5)),
        ("member: at=1+2+3 , mean=True", Member(at=(1, 2, 3), mean=True)),
        ("member:order=down,name=gs://b/c", Member(order="down", name="gs://b/c")),
        (f"{__name__}.Member:rate=2", Member(rate=2.0)),
    ],
)
def test_options_are_the_members_fields(spec, wanted):
    assert plugins.parse(spec, TABLE, "config.x") == wanted


@pytest.mark.parametrize(
    "spec, message",
    [
        ("membre", "config.x='membre' is not known; did you mean 'member'"),
        ("member:rat=1", "no option 'rat'; did you mean 'rate'"),
        ("member:steps=0.5", "steps='0.5' must be of type int"),
        ("member:steps=0", "steps=0 must be at least 1"),
        ("member:mean=1", "mean='1' must be true or false"),
        ("member:order=left", "order='left'; use one of up, down"),
        ("member:steps", "'steps' has no value; write it as FIELD=VALUE"),
        ("no.such.Thing", "names no member of a module"),
        ("dataclasses.Nothing", "names no member of a module"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        plugins.parse(spec, TABLE, "config.x")
