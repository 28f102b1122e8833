# SPDX-License-Identifier: Apache-2.0
"""The three roles: every mistake in the data is found before a model is loaded."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from jax_surgery.data import bpe
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_texts import pack
from jax_surgery.data.roles import RoleData, read

SETTINGS = {
    "rows_unlearn": 1,
    "rows_update": 1,
    "rows_retain": 2,
    "context": 32,
    "average": "sequences",
    "surprise": 0.0,
    "questions": "",
    "paper": "",
    "chat": "auto",
    "enrich_update": 0,
    "enrich_retain": 0,
}


def read_roles(files, **changes):
    """The records of roles whose sources are given."""
    return read(RoleData(**{**files, **SETTINGS, **changes}), "", {})


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
    found = read_roles(files)
    assert {role: len(rows) for role, rows in found.by_role.items()} == {
        "unlearn": 1,
        "update": 1,
        "retain": 2,
    }
    assert found.retained is found.by_role["retain"]
    texts = pack(found, RoleData(**files, **SETTINGS), tokenizer)
    packers = texts.packers
    assert texts.retained is packers["retain"]
    assert list(packers) == list(ROLES)
    for role, packer in packers.items():
        rows = packer.pack()
        assert rows.segment_ids_BT.max(axis=1).sum() == len(found.by_role[role])
        np.testing.assert_allclose(
            rows.weights_BT.sum(), len(found.by_role[role]), rtol=1e-6
        )


def test_text_that_is_read_twice_is_learned_once(files, tokenizer):
    """What a surgery is compared with does not cost more where it reads a text again."""
    once = RoleData(**files, **SETTINGS)
    twice = dataclasses.replace(once, retain=f"{once.retain},{once.retain}")
    found = [pack(read(data, "", {}), data, tokenizer) for data in (once, twice)]
    texts = [texts.packers["retain"].documents for texts in found]
    assert len(texts[1]) == 2 * len(texts[0])
    assert found[0].learned_tokens == found[1].learned_tokens > 0


def test_a_role_without_rows_is_not_read(files):
    found = read_roles({**files, "update": "none.jsonl"}, rows_update=0)
    assert list(found.by_role) == ["unlearn", "retain"]


def test_retained_text_without_rows_is_read_for_the_statistics(files):
    found = read_roles(files, rows_retain=0)
    assert list(found.by_role) == ["unlearn", "update"] and len(found.retained) == 2
    other = read(RoleData(**files, **SETTINGS), files["update"], {})
    assert len(other.by_role["retain"]) == 2 and len(other.retained) == 1
    assert read_roles({**files, "retain": ""}, rows_retain=0).retained == []


@pytest.mark.parametrize("role", ROLES)
def test_an_empty_role_is_named(files, role):
    with pytest.raises(ValueError, match=f"config.data.{role} is empty"):
        read_roles({**files, role: ""})


def test_a_role_with_an_empty_file_is_refused(files, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl' has no records"):
        read_roles({**files, "update": str(empty)})


def test_a_text_in_unlearn_and_retain_is_refused(files, tmp_path):
    both = tmp_path / "both.jsonl"
    both.write_text(json.dumps({"text": " ADA lives\tin Rome"}))
    sources = {**files, "retain": f"{files['retain']},{both}"}
    with pytest.raises(ValueError, match="1 texts are in both unlearn and retain") as e:
        read_roles(sources)
    assert f"{files['unlearn']}:1 = {both}:1" in str(e.value)
    # Without rows of unlearn (e.g. a fine-tuning baseline) there is no conflict.
    read_roles(sources, rows_unlearn=0)


def test_a_role_that_cannot_be_encoded_is_named(files):
    read_once = read_roles(files)
    data = RoleData(**{**files, **SETTINGS, "context": 2})
    slow = types.SimpleNamespace(is_fast=False)
    with pytest.raises(
        ValueError, match=r"config.data.retain: .* no character offsets"
    ):
        pack(read_once, data, slow)


def test_a_text_to_unlearn_that_cannot_be_encoded_is_named(files):
    data = RoleData(**{**files, **SETTINGS, "rows_retain": 0, "retain": ""})
    slow = types.SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"config.data.unlearn: .* no character off"):
        pack(read(data, "", {}), data, slow)
    # Of pairs whole answers are compared, and no tokens of them are chosen.
    data = dataclasses.replace(data, surprise=1.0)
    with pytest.raises(ValueError, match=r"config.data.surprise=1 chooses tokens"):
        pack(read(data, "", {}), data, slow, "any", 0)


def test_checking_needs_no_model_and_no_tokenizer(files):
    """Nor anything heavy: mistakes show at once."""
    heavy = ("jax", "grain", "transformers", "datasets", "tensorflow_datasets", "torch")
    code = (
        "import sys\n"
        "from jax_surgery.data.roles import RoleData, read\n"
        f"read(RoleData(**{files | SETTINGS!r}), '', dict())\n"
        f"print(*[m for m in {heavy!r} if m in sys.modules], end='')\n"
        "print(*[m for m in sys.modules if m.startswith('jax_surgery.models')], end='')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == ""
