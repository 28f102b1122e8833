# SPDX-License-Identifier: Apache-2.0
"""Edits of checkpoints: the result, exact rollback, and errors that write nothing."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import small_checkpoints
from safetensors.numpy import load_file, save_file
from small_checkpoints import CONFIG, DTYPES, NAMES, SHARD, TIED, contents, edit_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.edits import algebra, apply, checkpoint_copy, edit_file, rounding
from jax_surgery.edits.edit_file import Edit
from jax_surgery.models import output_head

UP = "model.layers.2.mlp.up_proj.weight"


def tensors(folder) -> dict[str, np.ndarray]:
    found = {}
    for file in folder.glob("model*.safetensors"):
        found |= load_file(file)
    return found


def plain_sum(weights: np.ndarray, edit: Edit, name: str) -> np.ndarray:
    """W + scale (a b)^T in float64."""
    if name not in edit.factors:
        return weights.astype(np.float64)
    a, b = (factor.astype(np.float64) for factor in edit.factors[name])
    return weights.astype(np.float64) + edit.scale * (a @ b).T


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("shard", [SHARD, 5e9], ids=["sharded", "single"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rollback_restores_every_bit(tmp_path, dtype, shard, config, monkeypatch):
    monkeypatch.setattr(apply, "PIECE", 300)  # several pieces per tensor
    before, after, back = (tmp_path / name for name in ("before", "after", "back"))
    small_checkpoints.save(before, dtype, config, shard)
    assert len(list(before.glob("*.safetensors"))) > 1 or shard > SHARD
    edit = edit_of(before, scale=0.7)
    undo = tmp_path / "undo"
    done = apply.apply(edit, before, after, undo)
    assert done.edit.result == edit_file.fingerprint(after, NAMES)
    old, new = tensors(before), tensors(after)
    for name, weights in old.items():
        wanted = plain_sum(weights, edit, name).astype(weights.dtype)
        if name in NAMES:
            assert (new[name] != weights).any()
            eps = float(ml_dtypes.finfo(weights.dtype).eps)
            np.testing.assert_allclose(
                new[name].astype(float), wanted.astype(float), rtol=eps, atol=1e-7
            )
        else:
            assert new[name].tobytes() == weights.tobytes()
    assert set(contents(after)) == set(contents(before))
    monkeypatch.setattr(apply, "PIECE", 10_000)  # as if another version had written it
    apply.rollback(after, undo, back)
    assert contents(back) == contents(before)
    assert {p.name for p in tmp_path.iterdir()} == {"before", "after", "back", "undo"}


def test_a_shared_output_head_that_the_file_repeats(tmp_path):
    before, after, back = (tmp_path / name for name in ("before", "after", "back"))
    small_checkpoints.save(before, "bfloat16", TIED)
    held = load_file(before / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"]
    save_file(held, before / "model.safetensors", {"format": "pt", "own": "words"})
    edit = edit_of(before, {"model.embed_tokens.weight": (32, 48)})
    apply.apply(edit, before, after, tmp_path / "undo")
    params, config = hf_weights.load_model(str(after))
    assert config.tie_embeddings
    new = tensors(after)
    assert np.array_equal(new["lm_head.weight"], new["model.embed_tokens.weight"])
    wanted = plain_sum(held["lm_head.weight"], edit, "model.embed_tokens.weight")
    head = np.asarray(output_head.kernel(params))
    # One of the two neighbours, which lie a spacing apart.
    np.testing.assert_allclose(head.T, wanted, rtol=2**-7, atol=1e-6)
    apply.rollback(after, tmp_path / "undo", back)
    assert contents(back) == contents(before)


def test_a_head_that_is_not_the_embedding_stays_when_that_changes(tmp_path):
    before, after, back = (tmp_path / name for name in ("before", "after", "back"))
    small_checkpoints.save(before, "bfloat16", TIED)  # as config.json says, wrongly
    held = load_file(before / "model.safetensors")
    held["lm_head.weight"] = -held["model.embed_tokens.weight"]
    save_file(held, before / "model.safetensors", {"format": "pt"})
    edit = edit_of(before, {"model.embed_tokens.weight": (32, 48)})
    with pytest.warns(UserWarning, match="another head"):
        apply.apply(edit, before, after, tmp_path / "undo")
    with pytest.warns(UserWarning, match="another head"):
        apply.rollback(after, tmp_path / "undo", back)
    new = tensors(after)
    assert np.array_equal(new["lm_head.weight"], held["lm_head.weight"])
    assert contents(back) == contents(before)


def test_we_and_transformers_load_the_edited_model(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    before, after = tmp_path / "before", tmp_path / "after"
    small_checkpoints.save(before)
    params, _ = hf_weights.load_model(str(before))
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(2, 32, 2)) / 9, rng.normal(size=(2, 2, 32)) / 9
    factors = edit_file.from_matrices(CONFIG, {"q": pair}, 1)
    base = edit_file.fingerprint(before, factors)
    apply.apply(Edit(factors, 1.0, base), before, after)
    ours, _ = hf_weights.load_model(str(after))
    kernel = np.array(params["layers"]["attention"]["q"]["kernel"])
    kernel[1:] += (pair[0] @ pair[1]).reshape(kernel[1:].shape)
    found = ours["layers"]["attention"]["q"]["kernel"]
    np.testing.assert_allclose(found, kernel, atol=1e-6)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(after)
    for name, value in load_file(after / "model.safetensors").items():
        read = theirs.state_dict()[name]
        assert torch.equal(read, torch.from_numpy(value)), name


def test_edits_roll_back_only_in_reverse_order_and_compose(tmp_path):
    zero, one, two = (tmp_path / name for name in "012")
    undo_one, undo_two = tmp_path / "undo_one", tmp_path / "undo_two"
    small_checkpoints.save(zero, "float32")
    first = apply.apply(edit_of(zero), zero, one, undo_one).edit
    later = edit_of(one, {UP: NAMES[UP]}, 0.5, seed=1)
    second = apply.apply(later, one, two, undo_two).edit

    said = refused(tmp_path, lambda out: apply.rollback(two, undo_one, out))
    now = edit_file.fingerprint(two, NAMES)
    for wanted in (
        "undo_one belongs to another model",
        f"produced the model {first.result.model[:12]}",
        f"is {now.model[:12]} ({UP} differs)",
        "Roll back the last edit first",
    ):
        assert wanted in said
    said = refused(tmp_path, lambda out: apply.rollback(one, undo_two, out))
    assert f"produced the model {second.result.model[:12]}" in said
    apply.rollback(two, undo_two, tmp_path / "3")
    assert contents(tmp_path / "3") == contents(one)
    apply.rollback(tmp_path / "3", undo_one, tmp_path / "4")
    assert contents(tmp_path / "4") == contents(zero)

    # Both kinds of file record the result of the first edit.
    edit_file.save_edit(first, tmp_path / "first")
    for known in (tmp_path / "first", undo_one):
        assert edit_file.load_edit(known).result == first.result
        whole = algebra.compose([edit_file.load_edit(known), later])
        apply.apply(whole, zero, tmp_path / f"whole_{known.name}")
        together = tensors(tmp_path / f"whole_{known.name}")
        for name in NAMES:
            np.testing.assert_allclose(together[name], tensors(two)[name], atol=1e-6)


def test_the_reversed_edit_removes_the_change(tmp_path):
    zero, one, two = (tmp_path / name for name in "012")
    small_checkpoints.save(zero)
    edit = apply.apply(edit_of(zero), zero, one).edit
    turned = dataclasses.replace(algebra.scaled(edit, -1.0), base=edit.result)
    apply.apply(turned, one, two)
    for name, weights in tensors(zero).items():
        np.testing.assert_allclose(tensors(two)[name], weights, atol=1e-6)


def test_nans_and_infinities_keep_their_bits(tmp_path):
    before, after, back = (tmp_path / name for name in ("before", "after", "back"))
    before.mkdir()
    (before / "config.json").write_text("{}")
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    odd = {"x": every.view(ml_dtypes.bfloat16), "y": every.view(np.int16)}
    save_file(odd, before / "model.safetensors")
    edit = edit_of(before, {"x": (256, 256)})
    apply.apply(edit, before, after, tmp_path / "undo")
    found = load_file(after / "model.safetensors")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        strange = ~np.isfinite(odd["x"])
    assert found["x"][strange].tobytes() == odd["x"][strange].tobytes()
    assert found["y"].tobytes() == odd["y"].tobytes()
    apply.rollback(after, tmp_path / "undo", back)
    assert contents(back) == contents(before)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    small_checkpoints.save(folder, "float16")
    return folder


def refused(tmp_path, call, error=ValueError) -> str:
    """The message of an error that must leave the disk unchanged."""
    before = contents(tmp_path)
    with pytest.raises(error) as caught:
        call(tmp_path / "below" / "out")
    assert contents(tmp_path) == before
    out = tmp_path / "below"
    assert not out.exists() or not list(out.iterdir())
    return str(caught.value)


def test_another_model_is_refused(tmp_path, model):
    other, shallow = tmp_path / "other", tmp_path / "shallow"
    small_checkpoints.save(other, "float16", seed=5)
    few = dataclasses.replace(CONFIG, num_layers=2, hidden_size=16)
    small_checkpoints.save(shallow, "float16", few)
    edit = edit_of(model)
    said = refused(tmp_path, lambda out: apply.apply(edit, other, out))
    name = "model.layers.0.self_attn.q_proj.weight"
    own = edit_file.fingerprint(other, NAMES)
    for wanted in (
        f"{name} has the hash {own.tensors[name][:12]}",
        f"the edit needs {edit.base.tensors[name][:12]}",
        f"model {own.model[:12]}, not {edit.base.model[:12]}",
        "Give the same checkpoint that the edit was made for",
    ):
        assert wanted in said
    said = refused(tmp_path, lambda out: apply.apply(edit, shallow, out))
    assert "another architecture" in said
    only = edit_of(model, {UP: NAMES[UP]})
    said = refused(tmp_path, lambda out: apply.apply(only, shallow, out))
    assert f"has no tensor {UP}" in said


def test_an_edit_is_applied_once(tmp_path, model):
    after = tmp_path / "after"
    edit = apply.apply(edit_of(model), model, after).edit
    said = refused(tmp_path, lambda out: apply.apply(edit, after, out))
    assert "it has been applied already" in said


def test_a_model_that_changed_since_or_a_broken_rollback_is_refused(tmp_path, model):
    after, undo = tmp_path / "after", tmp_path / "undo"
    done = apply.apply(edit_of(model), model, after, undo).edit
    kept = undo.read_bytes()
    held = load_file(after / "model.safetensors")
    held[UP][0, 0] *= -1
    save_file(held, after / "model.safetensors")
    said = refused(tmp_path, lambda out: apply.rollback(after, undo, out))
    assert (
        "belongs to another model: it rolls back the edit that produced the model "
        f"{done.result.model[:12]}" in said
    )
    assert f"({UP} differs)" in said
    held[UP][0, 0] *= -1
    save_file(held, after / "model.safetensors")
    # The corrections lie last.
    undo.write_bytes(kept[:-20] + bytes(20))
    said = refused(tmp_path, lambda out: apply.rollback(after, undo, out))
    assert "the rounding correction cannot be decompressed" in said
    edit_file.save_edit(done, undo)
    said = refused(tmp_path, lambda out: apply.rollback(after, undo, out))
    assert "is an edit without the corrections of rounding errors" in said
    undo.unlink()
    missing = refused(
        tmp_path, lambda out: apply.rollback(after, undo, out), FileNotFoundError
    )
    assert "undo does not exist" in missing


def test_wrong_corrections_do_not_pass_the_hash(tmp_path, model, monkeypatch):
    after, undo = tmp_path / "after", tmp_path / "undo"
    apply.apply(edit_of(model), model, after, undo)
    real = rounding.restored

    def wrong(*arguments):
        back = real(*arguments).copy()
        back.flat[0] += 1
        return back

    monkeypatch.setattr(rounding, "restored", wrong)
    said = refused(tmp_path, lambda out: apply.rollback(after, undo, out))
    assert "the restored model has the hash" in said


def test_weights_that_overflow_are_refused(tmp_path, model):
    edit, undo = algebra.scaled(edit_of(model), 1e9), tmp_path / "undo"
    said = refused(tmp_path, lambda out: apply.apply(edit, model, out, undo))
    assert "too large for float16; use a smaller scale" in said


def test_an_interruption_leaves_nothing(tmp_path, model, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    edit, undo = edit_of(model), tmp_path / "undo"
    for place, name in ((rounding, "correction"), (checkpoint_copy, "copy_last")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupted)
            refused(
                tmp_path,
                lambda out: apply.apply(edit, model, out, undo),
                KeyboardInterrupt,
            )
    # Without a rollback's file no correction is computed.
    monkeypatch.setattr(rounding, "correction", interrupted)
    apply.apply(edit, model, tmp_path / "after")


def test_a_rollback_file_replaces_nothing_and_lies_outside_models(tmp_path, model):
    edit, taken = edit_of(model), tmp_path / "taken"
    taken.write_text("x")
    for undo, message in (
        (lambda out: taken, "taken exists, and another edit may need it"),
        (
            lambda out: out / "undo",
            "out: anyone who has that model could undo the edit",
        ),
        (
            lambda out: model / "undo",
            "model: anyone who has that model could undo the edit",
        ),
    ):
        said = refused(
            tmp_path, lambda out, u=undo: apply.apply(edit, model, out, u(out))
        )
        assert message in said


def test_folders_that_are_not_empty_or_inside_are_refused(tmp_path, model):
    edit, full = edit_of(model), tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("x")
    for call in (
        lambda out: apply.apply(edit, model, full),
        lambda out: apply.rollback(model, model, full),
        lambda out: apply.apply(edit, model, model),
        lambda out: apply.apply(edit, model, full / "mine"),
    ):
        assert "is not empty; give a new or an empty folder" in refused(tmp_path, call)
    said = refused(tmp_path, lambda out: apply.apply(edit, model, model / "out"))
    assert "lies inside" in said
    (tmp_path / "empty").mkdir()
    apply.apply(edit, model, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").exists()


def test_weights_before_the_edit_are_not_copied(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    small_checkpoints.save(before, shard=SHARD)
    extra = {"pytorch_model.bin", "consolidated.safetensors", "original/whole.pth"}
    extra |= {"weights.npz", "old.tar.gz", "copy.safetensors.bak", "q4_0", "a.pkl"}
    for name in extra:
        (before / name).write_bytes(b"the model as it was")
    (before / ".cache").mkdir()
    (before / ".cache" / "anything").write_bytes(b"the model as it was")
    kept = {"README.md", "LICENSE", "LICENSE.txt", "tokenizer.model", "merges.txt"}
    for name in kept:
        (before / name).write_text("kept")
    done = apply.apply(edit_of(before), before, after)
    assert set(done.left_out) == {*extra, ".cache/"}
    assert b"the model as it was" not in b"".join(contents(after).values())
    assert kept < set(contents(after))


def test_a_rollback_file_is_small(tmp_path):
    """Corrections are of few kinds, and compressed."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    (before / "config.json").write_text("{}")
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (256, 512)).astype(ml_dtypes.bfloat16)
    save_file({"x": weights}, before / "model.safetensors")
    edit = edit_of(before, {"x": (512, 256)}, rank=1, size=0.01)
    apply.apply(edit, before, after, tmp_path / "undo")
    read = load_file(tmp_path / "undo")
    assert read["x.correction"].nbytes < 0.1 * weights.nbytes
