# SPDX-License-Identifier: Apache-2.0
"""Cases of one test, of which a few are quick and the others are marked as slow."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def few_of(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """The values of a parameter; those that are not in `quick` are marked as slow."""
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in cases]
