# SPDX-License-Identifier: Apache-2.0
"""How many steps a run takes that is not told."""

import dataclasses
import types

import numpy as np
import plain_settings
import pytest

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import how_many
from jax_surgery.methods.automatic.settings import Retain
from jax_surgery.optim.optimizer import OptimizerChoice


def rows_of(count):
    """Texts that fill so many rows."""
    text = Document(np.ones(16, np.int32), np.ones(16, bool), "text")
    return Packer([text] * count, 16, "tokens")


@pytest.mark.parametrize(
    ("unlearn", "update", "steps"),
    [
        (1, 0, how_many.LEAST),
        (45, 0, 135),  # nine passes of 45 rows, three a step
        (45, 10, 135),
        (45, 12, 162),  # 27 passes of 12 rows, two a step
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


def settings_of(many, steps=0):
    retain = Retain(budget=0.02, complete=True, many=many)
    optimizer = dataclasses.replace(plain_settings.plain_optimizer(), name="kfac")
    data = types.SimpleNamespace(rows={"unlearn": 3, "update": 2, "retain": 4})
    return Settings(data, retain, optimizer, steps)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `fitted` reads of a surgery's settings."""

    data: object
    retain: Retain
    optimizer: OptimizerChoice
    steps: int


@pytest.mark.parametrize(
    ("unlearn", "many", "name"),
    [
        (75, "orthogonal", "kfac"),  # nine passes of 75 rows are 225 steps
        (76, "orthogonal", "orthogonal"),
        (76, "", "kfac"),
    ],
)
def test_many_texts_have_an_optimizer_of_their_own(unlearn, many, name):
    packers = {"unlearn": rows_of(unlearn)}
    fitted = how_many.fitted(settings_of(many), packers)
    assert fitted.optimizer.name == name
    assert fitted.steps == how_many.MOST
    assert how_many.fitted(settings_of(many, steps=7), packers).steps == 7
