# SPDX-License-Identifier: Apache-2.0
"""The text part of a checkpoint of a model that sees images too (Gemma 3 from 4B on)."""

import json

import architecture_cases as cases
import numpy as np
import pytest
import small_checkpoints
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import hf_weights
from jax_surgery.edits import apply

CONFIG = cases.configs("gemma3_text")[1]
QUERY = "model.layers.1.self_attn.q_proj.weight"
VISION = {
    "vision_tower.embeddings.patch_embedding.bias": np.ones(3, np.float32),
    "multi_modal_projector.mm_input_projection_weight": np.ones((2, 3), np.float32),
}


# As published, and as some versions of `transformers` name them.
@pytest.fixture(params=["language_model.model.", "model.language_model."])
def folders(request, tmp_path):
    """A checkpoint of a text model, and one of which it is the text part."""
    text, whole = tmp_path / "text", tmp_path / "whole"
    small_checkpoints.save(text, config=CONFIG)
    small_checkpoints.save(whole, config=CONFIG)
    held = load_file(text / "model.safetensors")
    named = {n.replace("model.", request.param, 1): held[n] for n in held}
    save_file(named | VISION, whole / "model.safetensors", {"format": "pt"})
    card = json.loads((text / "config.json").read_text())
    card |= {"eos_token_id": 9, "architectures": None}
    above = {"model_type": "gemma3", "eos_token_id": CONFIG.eos_token_id}
    above |= {"text_config": card, "vision_config": {"hidden_size": 3}}
    (whole / "config.json").write_text(json.dumps(above))
    return text, whole


def test_it_is_read_and_exported_as_a_text_model(folders, tmp_path):
    text, whole = folders
    with pytest.warns(UserWarning, match="sees images too: its text part is read"):
        params, config = hf_weights.load_model(str(whole))
    assert config == CONFIG
    hf_weights.save_model(params, config, str(tmp_path / "out"))
    files = [f / "model.safetensors" for f in (text, tmp_path / "out")]
    wanted, found = map(load_file, files)
    assert set(wanted) == set(found)
    assert all(wanted[name].tobytes() == found[name].tobytes() for name in wanted)
    card = json.loads((tmp_path / "out" / "config.json").read_text())
    assert card["architectures"] == ["Gemma3ForCausalLM"]


@pytest.mark.filterwarnings("ignore:.*sees images too")
def test_an_edit_of_the_text_changes_the_whole_model(folders, tmp_path):
    text, _ = folders
    shape = load_file(text / "model.safetensors")[QUERY].shape[::-1]
    edit = small_checkpoints.edit_of(text, {QUERY: shape})
    for folder in folders:
        apply.apply(edit, folder, tmp_path / f"{folder.name}_edited")
    wanted = hf_weights.load_model(str(tmp_path / "text_edited"))[0]
    found = hf_weights.load_model(str(tmp_path / "whole_edited"))[0]
    query = lambda params: params["layers"]["attention"]["q"]["kernel"]
    assert np.array_equal(query(found), query(wanted))
    assert not np.array_equal(query(found), query(hf_weights.load_model(str(text))[0]))
    files = load_file(tmp_path / "whole_edited" / "model.safetensors")
    assert all(np.array_equal(files[name], VISION[name]) for name in VISION)
