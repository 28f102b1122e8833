# SPDX-License-Identifier: Apache-2.0
"""Which file and which field of a model's directory count; `transformers` is the oracle."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import hf_index, hf_weights
from jax_surgery.edits import apply, edit_file
from jax_surgery.edits.edit_file import Edit
from jax_surgery.metrics import text
from jax_surgery.models import decoder, output_head, rope
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.generate import greedy_generate
from jax_surgery.train import devices

CASES = pathlib.Path(__file__).parents[2].parent / "shared" / "cases"
CONFIG = ModelConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    max_positions=16,
    bos_token_id=0,
    eos_token_id=1,
    initializer_range=0.4,
)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
UP = "model.layers.0.mlp.up_proj.weight"
TOKENS = np.random.default_rng(0).integers(0, 48, (1, 24))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in one file, which tests change."""
    made = tmp_path / "model"
    params = decoder.init_params(CONFIG, 0)
    hf_weights.save_model(params, CONFIG, str(made))
    return made


def tensors_of(folder):
    return dict(load_file(folder / "model.safetensors"))


def card(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def logits(folder):
    params, config = hf_weights.load_model(str(folder))
    hidden = decoder.forward(params, config, jnp.asarray(TOKENS))
    return np.asarray(hidden @ output_head.kernel(params))


def agree(folder, tokens=TOKENS):
    """Asserts that the directory gives what transformers gives, where that is installed."""
    params, config = hf_weights.load_model(str(folder))
    hidden = decoder.forward(params, config, jnp.asarray(tokens))
    found = np.asarray(hidden @ output_head.kernel(params))
    try:
        import torch
    except ImportError:
        return found
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    with torch.no_grad():
        wanted = model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    return found


def other_head(folder):
    """Gives a directory that says "tied" a head of its own."""
    card(folder, tie_word_embeddings=True)
    held = tensors_of(folder)
    assert np.any(held[HEAD] != held[EMBEDDING])


def test_a_stored_head_counts_more_than_a_config_that_ties(folder, tmp_path):
    before = logits(folder)
    other_head(folder)
    with pytest.warns(UserWarning, match="the stored head is used"):
        np.testing.assert_array_equal(agree(folder), before)
    with pytest.warns(UserWarning):
        params, config = hf_weights.load_model(str(folder), dtype=None)
    assert not config.tie_embeddings
    hf_weights.save_model(params, config, str(tmp_path / "out"))
    assert not json.loads((tmp_path / "out/config.json").read_text())[
        "tie_word_embeddings"
    ]
    np.testing.assert_array_equal(logits(tmp_path / "out"), before)


def test_a_head_that_repeats_the_embedding_is_tied(folder, recwarn):
    card(folder, tie_word_embeddings=True)
    held = tensors_of(folder)
    save_file(held | {HEAD: held[EMBEDDING]}, folder / "model.safetensors")
    assert hf_weights.load_config(str(folder)).tie_embeddings
    both = agree(folder)
    # Either of the two alone is the same model.
    for absent in (HEAD, EMBEDDING):
        left = {n: t for n, t in held.items() if n not in (HEAD, EMBEDDING)}
        kept = EMBEDDING if absent == HEAD else HEAD
        save_file(left | {kept: held[EMBEDDING]}, folder / "model.safetensors")
        np.testing.assert_array_equal(agree(folder), both)
    assert not [w for w in recwarn if "stored head" in str(w.message)]


def test_an_edit_keeps_a_head_of_its_own(folder, tmp_path):
    other_head(folder)
    with pytest.warns(UserWarning):
        before = logits(folder)
    factors = {UP: (np.ones((16, 1), np.float32), np.ones((1, 24), np.float32))}
    edit = Edit(factors, 0.0, edit_file.fingerprint(folder, factors), {"task": "none"})
    apply.apply(edit, folder, tmp_path / "out")
    with pytest.warns(UserWarning):
        np.testing.assert_array_equal(logits(tmp_path / "out"), before)


def index(folder, files):
    """Splits a directory into files, with an index that names them."""
    held = tensors_of(folder)
    weight_map = {}
    for file, names in files.items():
        save_file({name: held[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    written = {"metadata": {}, "weight_map": weight_map}
    (folder / hf_index.INDEX).write_text(json.dumps(written))


def test_a_whole_file_counts_more_than_a_stale_index(folder, tmp_path):
    names = sorted(tensors_of(folder))
    index(folder, {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]})
    new = {name: tensor + 0.01 for name, tensor in tensors_of(folder).items()}
    save_file(new, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="the index is left out"):
        found = agree(folder)
    # An edited copy holds no index of files that are not copied.
    factors = {UP: (np.ones((16, 1), np.float32), np.ones((1, 24), np.float32))}
    with pytest.warns(UserWarning):
        base = edit_file.fingerprint(folder, factors)
    with pytest.warns(UserWarning):
        apply.apply(Edit(factors, 0.0, base, {}), folder, tmp_path / "out")
    assert not (tmp_path / "out" / hf_index.INDEX).exists()
    np.testing.assert_array_equal(logits(tmp_path / "out"), found)
    (folder / "model.safetensors").unlink()
    assert np.any(agree(folder) != found)


def test_a_tensor_in_two_files_that_are_read_names_both(folder):
    names = sorted(tensors_of(folder))
    index(folder, {"a.safetensors": names[:5], "b.safetensors": names[5:]})
    held = tensors_of(folder)
    save_file({n: held[n] for n in [*names[5:], names[0]]}, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    twice = rf"{names[0]} twice: .*a\.safetensors.*b\.safetensors"
    with pytest.raises(ValueError, match=twice):
        hf_weights.load_model(str(folder))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "lies outside"),
        ('{"weight_map": {"a": "/model.safetensors"}}', "lies outside"),
        ('{"weight_map": {"a": "b.safetensors"}}', "absent: b.safetensors"),
    ],
)
def test_a_broken_index_is_one_line(folder, text, message):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / hf_index.INDEX).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        hf_weights.load_model(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 10**5, '"llama"'])
def test_a_broken_config_is_one_line(folder, text):
    raw = text.encode("utf-8", "surrogateescape")
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(ValueError, match=r"config\.json") as error:
        hf_weights.load_model(str(folder))
    assert "\n" not in str(error.value)


def test_an_adapter_beside_a_model_is_said_and_one_alone_is_no_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.warns(UserWarning, match="read without the adapter"):
        hf_weights.load_config(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="give the model that it belongs to"):
        hf_weights.load_config(str(folder))


def test_names_of_a_model_saved_without_its_head_are_read(folder, tmp_path):
    before = logits(folder)
    held = tensors_of(folder)
    bare = {name.removeprefix("model."): tensor for name, tensor in held.items()}
    save_file(bare, folder / "model.safetensors")
    np.testing.assert_array_equal(agree(folder), before)
    factors = {UP: (np.ones((16, 1), np.float32), np.ones((1, 24), np.float32))}
    edit = Edit(factors, 0.5, edit_file.fingerprint(folder, factors), {})
    apply.apply(edit, folder, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert set(after) == set(bare)
    np.testing.assert_array_equal(after["layers.0.mlp.up_proj.weight"], held[UP] + 0.5)
    save_file(held | bare, folder / "model.safetensors")
    with pytest.raises(ValueError, match="twice"):
        hf_weights.load_model(str(folder))


def test_weights_of_64_bits_are_rounded_once(folder, tmp_path):
    before, held = logits(folder), tensors_of(folder)
    wide = {name: tensor.astype(np.float64) for name, tensor in held.items()}
    save_file(wide, folder / "model.safetensors")
    np.testing.assert_array_equal(agree(folder), before)
    kept, _ = hf_weights.load_model(str(folder), None)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(kept)} == {"float32"}
    factors = {UP: (np.ones((16, 1), np.float32), np.ones((1, 24), np.float32))}
    edit = Edit(factors, 1e-9, edit_file.fingerprint(folder, factors), {})
    undo = tmp_path / "undo.safetensors"
    apply.apply(edit, folder, tmp_path / "out", undo)
    after = load_file(tmp_path / "out" / "model.safetensors")[UP]
    assert np.all(after != wide[UP])
    apply.rollback(tmp_path / "out", undo, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")[UP]
    assert back.tobytes() == wide[UP].tobytes()


def test_biases_that_no_file_holds_are_zero_and_said(folder):
    before = logits(folder)
    card(folder, attention_bias=True)
    with pytest.warns(UserWarning, match="lacks 4 biases.*q_proj.bias"):
        np.testing.assert_array_equal(agree(folder), before)
    # Others that are missing are an error as before.
    held = tensors_of(folder)
    del held[UP]
    save_file(held, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing tensors \(1\): model.layers.0.mlp"):
        hf_weights.load_model(str(folder))


def test_a_scaling_that_grows_is_of_each_document(folder):
    """A text of 24 tokens beside one of 10, which 16 positions hold."""
    card(folder, rope_scaling={"rope_type": "dynamic", "factor": 3.0})
    long = agree(folder)
    params, config = hf_weights.load_model(str(folder))
    short = agree(folder, TOKENS[:, :10])
    head = output_head.kernel(params)
    packed = np.concatenate([TOKENS, TOKENS[:, :10], TOKENS[:, :2]], axis=1)
    segments = np.array([[1] * 24 + [2] * 10 + [0] * 2])
    positions = np.array([[*range(24), *range(10), 0, 0]])
    hidden = decoder.forward(params, config, packed, segments, positions)
    found = np.asarray(hidden @ head)
    np.testing.assert_allclose(found[:, :24], long, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 24:34], short, rtol=1e-4, atol=1e-4)
    lengths = rope.document_lengths(segments, positions)
    assert lengths.tolist() == [[24] * 24 + [10] * 10 + [1] * 2]
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = TOKENS[:, :20]
    wanted = model.generate(
        torch.tensor(prompt), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    answers = greedy_generate(params, config, [prompt[0].tolist()], 8, eos_id=-1)
    assert answers[0] == wanted[0, 20:].tolist()


def test_where_a_context_goes_beyond_the_positions_is_said(
    tiny_model, tmp_path, recwarn
):
    folder = pathlib.Path(shutil.copytree(tiny_model.folder, tmp_path / "model"))
    card(folder, max_position_embeddings=64)
    devices.load(str(folder), plain_compute(), tiny_model.tokenizer, 64)
    assert not [w for w in recwarn if "positions" in str(w.message)]
    with pytest.warns(UserWarning, match="rows of 65 tokens .*beyond the 64 positions"):
        devices.load(str(folder), plain_compute(), tiny_model.tokenizer, 65)


@pytest.mark.parametrize(
    "scaling, reach",
    [
        (None, 16),
        (rope.RopeScaling(8.0, 1.0, 4.0, 4), 16),
        (rope.LinearScaling(4.0), 64),
        (rope.DynamicScaling(2.0), 32),
        (rope.YarnScaling(4.0, 8), 32),
    ],
)
def test_scaled_positions_are_those_that_a_factor_gives(scaling, reach):
    assert dataclasses.replace(CONFIG, rope_scaling=scaling).reach == reach


# Nats per token of texts.jsonl by transformers 5.24, from the cases' page.
RIGHT = {"01-tied-own-head/model": 6.94660, "02-stale-index/model": 7.47416}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", RIGHT)
def test_users_directories_give_what_transformers_gives(case):
    if not (CASES / case).is_dir():
        pytest.skip(f"{CASES / case} is not there")
    model = devices.load(str(CASES / case), plain_compute())
    found = text.file_nll(model, str(CASES / "texts.jsonl"), 64)
    assert found["nll_per_token"] == pytest.approx(RIGHT[case], abs=2e-5)


FORMS = (
    *("attention_bias", "dynamic", "fp64", "linear", "mistral", "mlp_bias"),
    *("no_model_prefix", "pretraining_tp2", "qwen2", "swish", "theta_in_scaling"),
    "yarn",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_config_is_run_as_transformers_runs_it(form, tmp_path):
    """On more tokens than the 512 positions; the export gives the same."""
    case = CASES / "13-configs" / form
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    tokens = np.random.default_rng(0).integers(0, 512, (1, 620))
    shutil.copytree(case, tmp_path / "model")
    before = agree(tmp_path / "model", tokens)
    params, config = hf_weights.load_model(str(case))
    hf_weights.save_model(params, config, str(tmp_path / "out"))
    after = agree(tmp_path / "out", tokens)
    np.testing.assert_array_equal(before, after)
