# SPDX-License-Identifier: Apache-2.0
"""What does not go with a budget is refused before anything is loaded."""

import pytest
from settings_cases import FILES, load_config, merged

from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.models.config import ModelConfig
from jax_surgery.runs import settings

AUTOMATIC = FILES["surgery"].with_name("automatic.py")


def read(**fields):
    values = merged(load_config(AUTOMATIC).to_dict(), fields)
    return settings.from_config(values)


def test_the_config_is_one_stage_with_measured_ends_and_a_budget():
    found = read()
    assert [type(stage.method) for stage in found.stages] == [NeverKnew]
    assert found.retain.budget > 0 and found.retain.complete


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "npo"}, "use never_knew, alone"),
        ({"method": "never_knew@unlearn;surgery@update"}, "use never_knew, alone"),
        ({"data": {"rows_unlearn": 0}}, "config.data.rows_unlearn=0"),
        ({"data": {"rows_retain": 0}}, "config.data.rows_retain=0"),
        ({"data": {"surprise": 2.5}}, "the model itself says"),
        ({"objective": {"retain": "nll"}}, "'kl', which the budget is of"),
        ({"optimizer": {"name": "adamw"}}, "kfac, natural, orthogonal"),
        ({"optimizer": {"name": "muon"}}, "kfac, natural, orthogonal"),
        ({"optimizer": {"matrices": ""}}, "some of q,k,v,o,gate,up,down"),
        ({"lora": {"rank": 4}, "optimizer": {"name": "adamw"}}, "config.lora.rank=4"),
    ],
)
def test_what_does_not_go_with_a_budget_is_refused(fields, said):
    with pytest.raises(ValueError, match="does not go with config.retain.budget") as e:
        read(**fields)
    assert said in str(e.value)


def test_measured_ends_need_a_budget_and_so_does_what_the_model_writes():
    with pytest.raises(ValueError, match="give config.retain.budget"):
        read(retain={"budget": 0.0, "complete": False})
    with pytest.raises(ValueError, match="config.retain.complete=True"):
        read(retain={"budget": 0.0})
    with pytest.raises(ValueError, match="config.retain.budget=-1"):
        read(retain={"budget": -1.0})


def test_a_run_without_a_budget_must_say_its_steps():
    assert read().steps == 0
    plain = {"budget": 0.0, "complete": False}
    with pytest.raises(ValueError, match="config.steps=0; use 1 or more"):
        read(retain=plain, method="surgery")


def test_the_upper_layers_move_where_nothing_else_is_said():
    first = lambda layers, **fields: (
        read(**fields).trainable(ModelConfig(8, 8, 8, layers, 1, 1, 8)).first_layer
    )
    assert [first(layers) for layers in (1, 3, 7, 30)] == [0, 2, 5, 25]
    assert first(30, optimizer={"first_layer": 12}) == 12
    plain = {"budget": 0.0, "complete": False}
    assert first(30, retain=plain, method="surgery", steps=1) == 0
