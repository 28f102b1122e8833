# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the name of a method or in its options are said."""

import dataclasses

import pytest

from jax_surgery import methods
from jax_surgery.methods.base import Method


@dataclasses.dataclass(frozen=True)
class NoMethod:
    """A dataclass that is none."""


@dataclasses.dataclass(frozen=True)
class NoLevel(Method):
    """A method of no level, whose term nothing would compute."""


@pytest.mark.parametrize(
    "text, message",
    [
        ("nop", "config.method='nop' is not known; did you mean 'npo'"),
        ("npo:bet=1", "npo has no option 'bet'; did you mean 'beta'"),
        ("npo:beta=high", "beta='high' must be of type float"),
        ("npo:beta=0", "config.method=npo:beta=0.0 must be positive"),
        (
            "npoo",
            r"did you mean 'npo'\? choose one of surgery, never_knew, ga, grad_diff, kl_min, ",
        ),
        (
            "npoo",
            "loku, task_vector, subspace, unlearn_paper, or MODULE.NAME of your own",
        ),
        ("surgery:ascent=up", "ascent='up'; use one of none, cap"),
        ("dataclasses.Field", "is no plug-in"),
        ("satimp:beta2=-1", "satimp:beta2=-1.0 is negative; use 0"),
        ("ceu:skip=-1", "ceu:skip=-1; use 0 or more tokens"),
        ("undial:beta=0", "undial:beta=0.0 must be positive"),
        ("pdu:eta=0", "pdu:eta=0.0 must be positive"),
        ("pdu:epsilon=-1", "pdu:epsilon=-1.0; use 0 or more"),
        ("loku:texts=0", "loku:texts=0,most=512; use 1 or more texts"),
        ("npo_sam:rho=0", "npo_sam:rho=0.0 must be positive"),
        ("altpo:beta=0", "config.method=altpo:beta=0.0 must be positive"),
        ("task_vector:scale=0", "task_vector:scale=0.0 must be positive"),
        (f"{__name__}.NoMethod", "is no method: extend TokenMethod"),
        (f"{__name__}.NoLevel", "is no method: extend TokenMethod"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        methods.parse(text)
