# SPDX-License-Identifier: Apache-2.0
"""How many steps a run takes that is not told."""

import numpy as np
import pytest

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import how_many


def rows_of(count):
    """Texts that fill so many rows."""
    text = Document(np.ones(16, np.int32), np.ones(16, bool), "text")
    return Packer([text] * count, 16, "tokens")


@pytest.mark.parametrize(
    ("unlearn", "update", "steps"),
    [
        (1, 0, how_many.LEAST),
        (45, 0, 90),  # six passes of 45 rows, three a step
        (45, 10, 90),
        (45, 12, 108),  # eighteen passes of 12 rows, two a step
        (45, 100, how_many.MOST),  # of 900
        (45, 500, 250),  # once
    ],
)
def test_texts_are_read_as_often_as_they_should(unlearn, update, steps):
    packers = {"unlearn": rows_of(unlearn), "retain": rows_of(900)}
    if update:
        packers["update"] = rows_of(update)
    rows = {"unlearn": 3, "update": 2, "retain": 4}
    assert how_many.steps(packers, rows) == steps
