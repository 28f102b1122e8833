# SPDX-License-Identifier: Apache-2.0
"""The three roles: every mistake in the data is found before a model is loaded."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jax_surgery.data import bpe
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.roles import RoleSources, pack_roles, read_roles

ROWS = {"unlearn": 1, "update": 1, "retain": 2}


@pytest.fixture
def files(tmp_path):
    texts = {
        "unlearn": [{"text": "ada lives in rome"}],
        "update": [{"prompt": "ada lives in", "answer": " oslo"}],
        "retain": [{"text": "bo likes tea"}, {"question": "who?", "answer": "cy"}],
    }
    for role, rows in texts.items():
        (tmp_path / f"{role}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {role: str(tmp_path / f"{role}.jsonl") for role in ROLES}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train_bpe(["ada lives in rome and bo likes tea"] * 2, 300)


def test_roles_are_read_and_packed(files, tokenizer):
    read = read_roles(RoleSources(**files), ROWS)
    assert {role: len(rows) for role, rows in read.items()} == {
        "unlearn": 1,
        "update": 1,
        "retain": 2,
    }
    packers = pack_roles(read, tokenizer, 32, "sequences")
    assert list(packers) == list(ROLES)
    for role, packer in packers.items():
        rows = packer.pack()
        assert rows.num_documents == len(read[role])
        np.testing.assert_allclose(rows.weights_RT.sum(), len(read[role]), rtol=1e-6)


def test_a_role_without_rows_is_not_read(files):
    sources = RoleSources(files["unlearn"], files["update"], "none.jsonl")
    read = read_roles(sources, {"unlearn": 1, "update": 1, "retain": 0})
    assert list(read) == ["unlearn", "update"]


@pytest.mark.parametrize("role", ROLES)
def test_an_empty_role_is_named(files, role):
    with pytest.raises(ValueError, match=f"config.data.{role} is empty"):
        read_roles(RoleSources(**{**files, role: ""}), ROWS)


def test_a_role_with_an_empty_file_is_refused(files, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl' has no records"):
        read_roles(RoleSources(**{**files, "update": str(empty)}), ROWS)


def test_a_text_in_unlearn_and_retain_is_refused(files, tmp_path):
    both = tmp_path / "both.jsonl"
    both.write_text(json.dumps({"text": " ADA lives\tin Rome"}))
    sources = RoleSources(**{**files, "retain": f"{files['retain']},{both}"})
    with pytest.raises(ValueError, match="1 texts are in both unlearn and retain") as e:
        read_roles(sources, ROWS)
    assert f"{files['unlearn']}:1 = {both}:1" in str(e.value)
    # Without rows of unlearn (e.g. a fine-tuning baseline) there is no conflict.
    read_roles(sources, {**ROWS, "unlearn": 0})


def test_a_role_that_cannot_be_encoded_is_named(files, tokenizer):
    read = read_roles(RoleSources(**files), ROWS)
    with pytest.raises(ValueError, match=r"config.data.unlearn: data.context=1"):
        pack_roles(read, tokenizer, 1, "tokens")


def test_checking_needs_no_model_and_no_tokenizer(files):
    """Nor anything heavy: mistakes show at once."""
    heavy = ("jax", "grain", "transformers", "datasets", "tensorflow_datasets", "torch")
    code = (
        "import sys\n"
        "from jax_surgery.data.roles import RoleSources, read_roles\n"
        f"read_roles(RoleSources(**{files!r}), {ROWS!r})\n"
        f"print(*[m for m in {heavy!r} if m in sys.modules], end='')\n"
        "print(*[m for m in sys.modules if m.startswith('jax_surgery.models')], end='')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == ""
