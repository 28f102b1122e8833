# SPDX-License-Identifier: Apache-2.0
"""A model goes out in the dtypes it came in, and small changes are not rounded away."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_checkpoints
from etils import epath
from settings_cases import plain_surgery
from small_checkpoints import CONFIG

from jax_surgery.checkpoints import export_dtype, hf_index, hf_weights
from jax_surgery.models.model import Model
from jax_surgery.runs.by_roles import ByRoles

SMALL = 2.0**-12  # of a weight: an eighth of half of bfloat16's spacing, or less


@pytest.fixture(scope="module", params=["bfloat16", "float16", "float32"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    small_checkpoints.save(folder, request.param)
    params, config = hf_weights.load_model(str(folder))
    return Model(params, config, None, source=str(folder))


def export(model, folder, asked=""):
    """The model as `ByRoles.export` writes it, and as it is scored."""
    case = ByRoles.__new__(ByRoles)
    case.settings = plain_surgery(save_dtype=asked)
    copy = model.with_params(jax.tree.map(jnp.copy, model.params))
    return case.export(copy, str(folder))


def kinds(folder):
    return {
        entry.dtype.name for entry in hf_index.entries_of(epath.Path(folder)).values()
    }


def test_an_untouched_model_comes_out_as_it_came_in(model, tmp_path):
    export(model, tmp_path)
    one, two = (
        hf_index.entries_of(epath.Path(f)) for f in (model.source, tmp_path / "model")
    )
    assert set(one) == set(two)
    for name in one:
        assert (one[name].kind, one[name].shape) == (two[name].kind, two[name].shape)
        read = hf_index.safetensors_file.read_rows
        pair = [read(e, 0, e.shape[0]).tobytes() for e in (one[name], two[name])]
        assert pair[0] == pair[1], name
    card = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {card["dtype"]} == kinds(tmp_path / "model") == kinds(model.source)


def test_small_changes_are_there_on_average_and_scored_as_they_are_written(
    model, tmp_path
):
    changed = jax.tree.map(lambda w: w * (1 + SMALL), model.params)
    scored = export(model.with_params(changed), tmp_path)
    written, _ = hf_weights.load_model(str(tmp_path / "model"))
    jax.tree.map(np.testing.assert_array_equal, written, scored.params)
    before, after = (
        np.concatenate([np.abs(x).ravel() for x in jax.tree.leaves(jax.device_get(p))])
        for p in (model.params, written)
    )
    grown = (after.sum(dtype=np.float64) / before.sum(dtype=np.float64) - 1) / SMALL
    # 20,000 weights, of which some move by a whole spacing.
    assert grown == pytest.approx(1.0, abs=0.2)
    nearest = np.abs(
        jnp.asarray(before * (1 + SMALL)).astype(next(iter(kinds(tmp_path / "model"))))
    )
    if kinds(tmp_path / "model") == {"bfloat16"}:
        assert np.array_equal(nearest.astype(np.float32), before)  # all were lost


@pytest.mark.parametrize("asked, size", [("float16", 7e4), ("bfloat16", 3.4e38)])
def test_a_weight_that_is_too_large_for_the_dtype_is_refused(
    model, tmp_path, asked, size
):
    params = jax.tree.map(lambda w: w.at[(0,) * w.ndim].set(size), model.params)
    with pytest.raises(ValueError, match=f"holds numbers that {asked} cannot"):
        export(model.with_params(params), tmp_path, asked)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_another_dtype_can_be_asked_for(model, tmp_path, asked):
    export(model, tmp_path, asked)
    assert kinds(tmp_path / "model") == {asked}


def test_tensors_of_several_dtypes_keep_their_own(tmp_path):
    params = {"norm": np.dtype(np.float32)}
    folder = tmp_path / "mixed"
    small_checkpoints.save(folder, "bfloat16")
    params, config = hf_weights.load_model(str(folder))
    wanted = export_dtype.of_export(str(folder), config, "")
    wanted = {
        p: np.dtype(np.float32) if p[-1] == "scale" else d for p, d in wanted.items()
    }
    hf_weights.save_model(params, config, str(tmp_path / "again"), dtype=wanted)
    entries = hf_index.entries_of(epath.Path(tmp_path / "again"))
    for name, entry in entries.items():
        assert entry.dtype.name == ("float32" if "norm" in name else "bfloat16")
    found = export_dtype.of_export(str(tmp_path / "again"), CONFIG, "")
    assert found == wanted
    # config.json names that of most weights.
    card = json.loads((tmp_path / "again" / "config.json").read_text())
    assert card["dtype"] == "bfloat16"
