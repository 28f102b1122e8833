# SPDX-License-Identifier: Apache-2.0
"""Edits as files: round trips, layout, fingerprints, scaling and composing."""

import dataclasses
import hashlib
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import small_checkpoints
from safetensors.numpy import load_file, save_file
from small_checkpoints import CONFIG, NAMES, edit_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.edits import algebra, edit_file
from jax_surgery.edits.edit_file import Edit, Fingerprint
from jax_surgery.models.flops import matrix_shapes
from jax_surgery.models.trainable import BLOCK_OF, Trainable

UP = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_checkpoints.save(folder, "bfloat16", shard=small_checkpoints.SHARD)
    return folder


def same(left: Edit, right: Edit) -> bool:
    fields = ("scale", "base", "provenance", "result", "digest")
    return all(getattr(left, f) == getattr(right, f) for f in fields)


def test_a_saved_edit_loads_again_and_safetensors_reads_it(model, tmp_path):
    edit = edit_of(model, scale=0.1)
    edit = dataclasses.replace(edit, result=edit_of(model).base)
    file = tmp_path / "edit.safetensors"
    edit_file.save_edit(edit, file)
    found = edit_file.load_edit(file)
    assert same(found, edit)
    assert same(found, dataclasses.replace(edit, result=None)) is False
    for name, pair in edit.factors.items():
        for ours, theirs in zip(pair, found.factors[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    read = load_file(file)
    assert set(read) == {f"{name}.{s}" for name in NAMES for s in "ab"}
    np.testing.assert_array_equal(read[f"{UP}.b"], edit.factors[UP][1])
    with safetensors.safe_open(file, "np") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["edit"])["base"]["model"] == edit.base.model


def test_other_files_and_versions_are_refused(model, tmp_path):
    file = tmp_path / "edit.safetensors"
    with pytest.raises(
        FileNotFoundError, match="does not exist; give the file of an edit"
    ):
        edit_file.load_edit(file)
    save_file({"x": np.zeros(3, np.float32)}, file)
    with pytest.raises(ValueError, match="but not an edit"):
        edit_file.load_edit(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        edit_file.load_edit(file)
    edit_file.save_edit(edit_of(model), file)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"is damaged: .*Copy it again"):
        edit_file.load_edit(file)
    file.write_bytes(data.replace(b'"version": "1"', b'"version": "9"'))
    with pytest.raises(ValueError, match=r"version 9; this program reads version 1\."):
        edit_file.load_edit(file)


def test_any_flipped_bit_of_an_edit_is_seen_or_does_not_matter(model, tmp_path):
    """In the header, which has the scale, the hashes and the provenance, and beyond."""
    file, edit = tmp_path / "edit.safetensors", edit_of(model, scale=0.25)
    edit_file.save_edit(edit, file)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for place in [*range(0, header, 3), *range(header, len(whole), 97)]:
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        file.write_bytes(data)
        try:
            assert same(edit_file.load_edit(file), edit)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(file) in str(error)
    assert refused > 0.9 * header / 3


def test_edits_that_an_earlier_version_wrote_are_read(model, tmp_path, monkeypatch):
    """Their headers have no checksum."""
    file, edit = tmp_path / "edit.safetensors", edit_of(model)
    real = edit_file.to_metadata
    monkeypatch.setattr(
        edit_file,
        "to_metadata",
        lambda edit: {k: v for k, v in real(edit).items() if k != "sha256"},
    )
    edit_file.save_edit(edit, file)
    assert same(edit_file.load_edit(file), edit)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((4, 2)), np.ones((2, 3)), "they must be float32"),
        (np.ones((4, 2), "f4"), np.ones((3, 3), "f4"), r"\(4, 2\) and float32 \(3, 3"),
        (np.ones((4, 0), "f4"), np.ones((0, 3), "f4"), r"\(4, 0\)"),
        (np.full((4, 2), np.nan, "f4"), np.ones((2, 3), "f4"), "not finite"),
    ],
)
def test_unusable_factors_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        Edit({"x": (a, b)}, 1.0, Fingerprint({"x": "0"}))


def test_an_edit_has_factors_hashes_and_a_finite_scale():
    pair = (np.ones((4, 2), "f4"), np.ones((2, 3), "f4"))
    with pytest.raises(ValueError, match="needs factors for at least one"):
        Edit({}, 1.0, Fingerprint({}))
    with pytest.raises(ValueError, match="y has a hash without factors"):
        Edit({"x": pair}, 1.0, Fingerprint({"x": "0", "y": "1"}))
    with pytest.raises(ValueError, match="scale is nan"):
        Edit({"x": pair}, float("nan"), Fingerprint({"x": "0"}))


def test_a_fingerprint_depends_on_bytes_dtype_and_shape(tmp_path):
    tensor = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    folders = []
    turned = tensor.reshape(3, 2)
    for place, one in enumerate([tensor, turned, tensor.view(np.float16)]):
        folders.append(tmp_path / str(place))
        folders[-1].mkdir()
        save_file({"x": one, "y": one}, folders[-1] / "model.safetensors")
    found = [edit_file.fingerprint(folder, ["x"]) for folder in folders]
    by_hand = hashlib.sha256(b"bfloat16 (2, 3)\n" + tensor.tobytes()).hexdigest()
    assert found[0].tensors == {"x": by_hand}
    assert len({one.model for one in found}) == 3
    assert edit_file.fingerprint(folders[0], ["x", "y"]).model != found[0].model
    with pytest.raises(ValueError, match="has no tensor z: the model has another arch"):
        edit_file.fingerprint(folders[0], ["z"])
    save_file({"x": np.arange(3)}, folders[0] / "model.safetensors")
    with pytest.raises(
        ValueError, match="x in .* has the dtype I64; edits can change only"
    ):
        edit_file.fingerprint(folders[0], ["x"])


def test_norms_are_those_of_the_products(model):
    edit = edit_of(model, scale=-0.5)
    for name, (a, b) in edit.factors.items():
        wanted = np.linalg.norm(0.5 * a.astype(float) @ b.astype(float))
        assert edit.norms[name] == pytest.approx(wanted)


def test_stacked_factors_become_those_of_the_checkpoint(tmp_path):
    """Adding them to the parameters before saving equals adding them to the files."""
    small_checkpoints.save(tmp_path)
    params, _ = hf_weights.load_model(str(tmp_path))
    rng = np.random.default_rng(0)
    pairs = {
        name: (rng.normal(size=(2, inputs, 3)), rng.normal(size=(2, 3, outputs)))
        for name, (inputs, outputs) in matrix_shapes(CONFIG).items()
    }
    trainable = Trainable(1, tuple(BLOCK_OF))
    moved = {name: np.float32(a @ b) for name, (a, b) in pairs.items()}
    edited = jax.tree.map(np.add, params, trainable.put(moved, params))
    hf_weights.save_model(edited, CONFIG, str(tmp_path / "edited"))
    before, after = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path, tmp_path / "edited")
    )
    found = edit_file.from_matrices(CONFIG, pairs, 1)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert set(found) == changed
    assert len(changed) == 14
    for name, (a, b) in found.items():
        np.testing.assert_allclose(after[name], before[name] + (a @ b).T, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "layers", "inputs", "first", "message"),
    [
        ("qq", 1, 32, 0, "unknown matrix 'qq'; choose from q, k, v, o"),
        ("q", 1, 31, 0, r"\(1, 31, 2\).*this model needs \(1, 32, 2\)"),
        ("q", 2, 32, 2, "layers 2 to 3, and the model has only 3"),
        ("q", 1, 32, -1, "from layer -1 on"),
    ],
)
def test_factors_of_another_model_are_refused(matrix, layers, inputs, first, message):
    pair = np.ones((layers, inputs, 2)), np.ones((layers, 2, 32))
    with pytest.raises(ValueError, match=message):
        edit_file.from_matrices(CONFIG, {matrix: pair}, first)


def product(edit: Edit, name: str) -> np.ndarray:
    if name not in edit.factors:
        return np.zeros(())
    a, b = (factor.astype(np.float64) for factor in edit.factors[name])
    return edit.scale * a @ b


def test_scaling_drops_the_recorded_result(model):
    edit = edit_of(model, scale=0.5)
    edit = dataclasses.replace(edit, result=edit.base)
    half = algebra.scaled(edit, 0.5)
    np.testing.assert_allclose(product(half, UP), 0.5 * product(edit, UP))
    assert half.digest == edit.digest
    assert half.result is None
    assert same(algebra.scaled(half, 2.0), dataclasses.replace(edit, result=None))
    with pytest.raises(ValueError, match="scale is inf"):
        algebra.scaled(edit, float("inf"))


def test_edits_of_one_model_compose_to_their_sum(model):
    few = {UP: NAMES[UP], "model.layers.0.mlp.up_proj.weight": (32, 64)}
    parts = [edit_of(model, scale=0.3), edit_of(model, few, -2.0, rank=3, seed=1)]
    whole = algebra.compose(parts)
    assert set(whole.factors) == set(NAMES) | set(few)
    assert whole.base == edit_file.fingerprint(model, whole.factors)
    assert whole.factors[UP][0].shape == (32, 5)
    for name in whole.factors:
        wanted = sum(product(part, name) for part in parts)
        np.testing.assert_allclose(product(whole, name), wanted, atol=1e-7)
    assert [p["factors"] for p in whole.provenance["composed of"]] == [
        part.digest for part in parts
    ]


def test_a_composed_edit_is_the_best_of_its_rank(model):
    parts = [edit_of(model, rank=3), edit_of(model, rank=4, seed=1)]
    whole, cut = (algebra.compose(parts, rank) for rank in (0, 4))
    exact = algebra.compose([parts[0], algebra.scaled(parts[0], 2.0)], 3)
    for name in NAMES:
        assert cut.factors[name][0].shape[1] == 4
        left, sizes, right = np.linalg.svd(product(whole, name))
        wanted = (left[:, :4] * sizes[:4]) @ right[:4]
        np.testing.assert_allclose(product(cut, name), wanted, atol=1e-7)
        twice = 3 * product(parts[0], name)
        np.testing.assert_allclose(product(exact, name), twice, atol=1e-7)


def made(base: dict[str, str], result: dict[str, str] | None) -> Edit:
    pair = (np.ones((4, 2), "f4"), np.ones((2, 3), "f4"))
    return Edit(
        dict.fromkeys(base, pair),
        1.0,
        Fingerprint(base),
        result=Fingerprint(result) if result else None,
    )


def test_chains_compose_and_unrelated_edits_do_not():
    first = made({"x": "0", "y": "0"}, {"x": "1", "y": "1"})
    second = made({"y": "1", "z": "0"}, {"y": "2", "z": "2"})
    third = made({"z": "2", "y": "2"}, None)
    whole = algebra.compose([first, second, third])
    assert whole.base.tensors == {"x": "0", "y": "0", "z": "0"}
    np.testing.assert_array_equal(product(whole, "y"), np.full((4, 3), 6.0))
    np.testing.assert_array_equal(product(whole, "x"), np.full((4, 3), 2.0))
    stranger = made({"y": "7"}, None)
    with pytest.raises(
        ValueError, match=r"edit 2 .*y has the hash 7 .*, 0 in theirs.*the hash 1"
    ):
        algebra.compose([first, stranger])
    # The result of both together is unknown, so no edit can follow them.
    beside = made({"y": "0"}, {"y": "5"})
    after = made({"y": "5"}, None)
    with pytest.raises(ValueError, match=r"edit 3 .*an unknown hash after them"):
        algebra.compose([first, beside, after])
    # One tensor is from before the first edit, the other from after it.
    mixed = made({"x": "0", "y": "1"}, None)
    with pytest.raises(ValueError, match="edit 2 .*neither the model of"):
        algebra.compose([first, mixed])
    with pytest.raises(ValueError, match="0 edits, rank 0"):
        algebra.compose([])
