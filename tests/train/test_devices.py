# SPDX-License-Identifier: Apache-2.0
"""What a run holds in memory: only what it changes is widened to float32."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute
from subspace_run_cases import work_of

from jax_surgery.benchmarks import suite
from jax_surgery.checkpoints import hf_weights
from jax_surgery.models.trainable import Trainable
from jax_surgery.runs import settings as run_settings
from jax_surgery.runs import surgery
from jax_surgery.train import devices

BFLOAT16 = plain_compute(dtype="bfloat16")


def dtypes(params) -> dict[str, str]:
    """The dtype of every parameter by its name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): str(leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


@pytest.mark.parametrize(
    ("compute", "moving", "wide"),
    [
        (plain_compute(), None, "all"),
        (BFLOAT16, None, "none"),
        (BFLOAT16, Trainable(), "all"),
        (BFLOAT16, Trainable(2, ("up", "o")), {"up/kernel", "o/kernel"}),
    ],
)
def test_only_what_moves_is_widened_to_float32(compute, moving, wide):
    """The suite's files are bfloat16."""
    found = dtypes(devices.load_model(str(suite.MODEL), compute, moving).params)
    assert {str(np.dtype(d)) for d in found.values()} <= {"float32", "bfloat16"}
    for name, dtype in found.items():
        widened = wide == "all" or (wide != "none" and name.endswith(tuple(wide)))
        assert dtype == ("float32" if widened else "bfloat16"), name


def test_a_loaded_model_knows_how_it_is_run_and_where_it_is_from(tiny_model):
    model = devices.load_model(tiny_model.folder, BFLOAT16)
    assert model.compute == BFLOAT16 and model.source == tiny_model.folder
    assert model.config == tiny_model.config
    assert model.tokenizer.get_vocab() == tiny_model.tokenizer.get_vocab()
    # Files in float32 stay as they are: to round them is not the loader's business.
    assert set(dtypes(model.params).values()) == {"float32"}


def test_a_removal_holds_frozen_weights_as_the_files_do(own):
    fields = {"compute": {"dtype": "bfloat16"}, "rounds": {"matrices": "up,down"}}
    found = dtypes(work_of(own, **fields).model.params)
    wide = {name for name, dtype in found.items() if dtype == "float32"}
    assert {name.split("/")[-2] for name in wide} == {"up", "down"}
    adapter = {"rank": 2}
    found = dtypes(work_of(own, lora=adapter, **fields).model.params)
    assert set(found.values()) == {"bfloat16"}


@pytest.mark.slow
def test_surgery_trains_masters_above_frozen_bfloat16_and_exports_all_of_them(
    write_texts, tmp_path
):
    config = importlib.import_module("configs.surgery").get_config()
    texts = [f"the number {i} is {i * 7 % 13}" for i in range(12)]
    fields = {
        "model": "suite",
        "save_dtype": "float32",
        "steps": 2,
        "accumulate": 2,
        "compute.dtype": "bfloat16",
        "data.unlearn": write_texts("unlearn", texts[:3]),
        "data.update": write_texts("update", [f"{t} or so" for t in texts]),
        "data.retain": write_texts("retain", texts[3:]),
        "data.rows_unlearn": 2,
        "data.rows_update": 2,
        "data.rows_retain": 2,
        "data.questions": "",
        "data.surprise": 0.0,
        "data.context": 32,
        "optimizer.first_layer": 1,
        "optimizer.matrices": "up",
    }
    config.update_from_flattened_dict(fields)
    chosen = run_settings.from_config(config)
    surgery.run(chosen, str(tmp_path / "run"))
    before, _ = hf_weights.load_model(str(suite.MODEL))
    after, _ = hf_weights.load_model(str(tmp_path / "run" / "model"), None)
    assert set(dtypes(after).values()) == {"float32"}
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    equal = [bool((one == other).all()) for one, other in pairs]
    changed = {
        name for name, same in zip(dtypes(after), equal, strict=True) if not same
    }
    assert changed == {"layers/mlp/up/kernel"}
    up = after["layers"]["mlp"]["up"]["kernel"]
    # Steps smaller than bfloat16 tells apart are there.
    assert (up.astype(jnp.bfloat16) != up).any()
