# SPDX-License-Identifier: Apache-2.0
"""What a step needs on the devices that are here."""

import dataclasses

import jax
import pytest
from settings_cases import plain_surgery, settings_of

from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.lora import LowRank
from jax_surgery.plan import here

CONFIG = ModelConfig(256, 256, 512, 4, 4, 2, 32, bos_token_id=0, eos_token_id=1)
WEIGHTS = 4 * decoder.parameter_count(CONFIG)  # bytes


def test_the_weights_their_moments_and_the_reference_are_in_it():
    rows = {f"data.rows_{role}": 1 for role in ("unlearn", "update", "retain")}
    whole = plain_surgery(**rows)
    needs = here.step_bytes(whole, CONFIG)
    assert needs > 4 * WEIGHTS  # AdamW has two moments
    low_rank = dataclasses.replace(whole, lora=LowRank(2))
    assert WEIGHTS < here.step_bytes(low_rank, CONFIG) < needs - 2 * WEIGHTS


def test_a_run_that_keeps_to_a_budget_holds_two_more_of_what_moves():
    rows = {f"data.rows_{role}": 1 for role in ("unlearn", "update", "retain")}
    fields = {"model": "tiny", "data.context": 32, "compute.remat": "none"}
    fields |= {f"data.{role}": "x.jsonl" for role in ("unlearn", "update", "retain")}
    automatic = settings_of("automatic", rows | fields)
    moving = automatic.trainable(CONFIG)
    assert 0 < moving.first_layer < CONFIG.num_layers
    fixed = dataclasses.replace(
        automatic,
        steps=1,
        method="surgery",
        retain=dataclasses.replace(automatic.retain, budget=0.0, complete=False),
        optimizer=dataclasses.replace(
            automatic.optimizer, first_layer=moving.first_layer
        ),
    )
    copies = here.step_bytes(automatic, CONFIG) - here.step_bytes(fixed, CONFIG)
    layers = CONFIG.num_layers - moving.first_layer
    moved = 4 * layers * 3 * CONFIG.hidden_size * CONFIG.intermediate_size
    # The two methods' own buffers differ too, by less than a third of a copy.
    assert copies == pytest.approx(2 * moved, abs=moved / 3)


def test_what_a_tpu_refuses_is_what_it_says(monkeypatch):
    said = (
        "RESOURCE_EXHAUSTED: E0100: CompileTimeHbmOom: Used 21.50G of 15.75G hbm. "
        "Program hbm requirement (21.50G) exceeds available HBM (15.75G)"
    )

    class Refused:
        def lower(self, *_):
            raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(
        here.lowering,
        "call",
        lambda *_: here.programs.Call(Refused(), (), {}, 0.0),
    )
    assert here.step_bytes(plain_surgery(), CONFIG) == int(21.5 * 2**30)
    said = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        here.step_bytes(plain_surgery(), CONFIG)
