# SPDX-License-Identifier: Apache-2.0
"""Several attacks by one name, and options that are tried in every combination."""

import pytest

from jax_surgery import attacks
from jax_surgery.attacks import SETS, Target
from jax_surgery.attacks.base import lacking


def test_every_combination_is_an_attack_of_the_same_family():
    given = "relearning:learning_rate=1e-4+1e-3,steps=5,seed=0+1; blocks"
    *grid, last = attacks.parse_all(given)
    assert [one.spec for one in grid] == [
        f"relearning:learning_rate={rate},steps=5,seed={seed}"
        for rate in ("1e-4", "1e-3")
        for seed in (0, 1)
    ]
    assert {one.family for one in grid} == {given.partition(";")[0]}
    assert [one.attack.seed for one in grid] == [0, 1, 0, 1]
    assert (last.spec, last.family) == ("blocks", "blocks")
    assert attacks.parse_all("") == []


@pytest.mark.parametrize("spec", ["relearning:learning_rate=1e+0", "hints:shots=1+2"])
def test_a_number_and_an_option_of_several_values_stay_whole(spec):
    [one] = attacks.parse_all(spec)
    assert one.spec == spec


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_of_attacks_that_are_left_out_where_they_lack_something(name):
    found = attacks.parse_all(name)
    assert len(found) == len(attacks.parse_all(SETS[name]))
    assert all(one.optional for one in found)
    able = [one for one in found if not lacking(one.attack, Target((), (), 8))]
    assert len(able) < len(found)
    assert not any(one.optional for one in attacks.parse_all(SETS[name]))


def test_the_grid_has_several_optimizers_rates_texts_and_seeds():
    cells = [one.attack for one in attacks.parse_all("grid")]
    for field, least in {
        "optimizer": 3,
        "on": 4,
        "seed": 2,
        "learning_rate": 4,
    }.items():
        assert len({getattr(cell, field) for cell in cells}) >= least
    assert {bool(cell.rank) for cell in cells} == {True, False}


def test_a_wrong_value_is_named():
    with pytest.raises(ValueError, match="'relearning:seed=x'.* must be of type int"):
        attacks.parse_all("relearning:seed=0+x")
