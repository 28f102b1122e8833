# SPDX-License-Identifier: Apache-2.0
"""What a run that descends computes once."""

import types
from typing import Any

import jax
import numpy as np
import pytest
from plain_settings import plain_compute

from jax_surgery.data.batch import concatenate
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.tokens import Document
from jax_surgery.methods import frozen_states
from jax_surgery.methods.reference import Reading
from jax_surgery.models import decoder
from jax_surgery.models.model import Model

COUNTS = {"unlearn": 2, "update": 1, "retain": 3}
ROWS = RoleRows(**COUNTS)
BEGINNING = np.array([5, 6, 7], np.int32)


@pytest.fixture
def model(tiny_model):
    of = (tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    return Model(*of, plain_compute())


def of_run(reference: str, readings: dict[str, Any], first: int) -> Any:
    """Settings of a run whose layers from `first` on move."""
    return types.SimpleNamespace(
        reference=reference,
        loss=types.SimpleNamespace(readings=lambda rows: readings),
        trainable=lambda config: types.SimpleNamespace(first_layer=first),
    )


def texts(**packers: Packer) -> Any:
    return types.SimpleNamespace(packers=packers)


def packer(seed: int, beginning: np.ndarray | None = None) -> Packer:
    """Texts of which some have the beginning, where there is one."""
    rng = np.random.default_rng(seed)
    documents = []
    for length in rng.integers(2, 9, 12):
        tokens = rng.integers(1, 30, length).astype(np.int32)
        if beginning is not None and length % 2:
            tokens = np.concatenate([beginning, tokens])
        documents.append(Document(tokens, np.ones(len(tokens), bool), "f:1"))
    return Packer(documents, 16, "tokens", beginning=beginning)


def test_the_weights_are_hashed_once_for_all_caches(model, monkeypatch):
    models, keys = [], {}

    def of_model(params, config):
        models.append(params)
        return "a" * 64

    def opened(folder, key):
        keys[folder.rpartition("/")[2]] = key
        return key

    monkeypatch.setattr(frozen_states.checksums, "of_model", of_model)
    monkeypatch.setattr(frozen_states.reference_cache, "open_on_all", opened)
    fields = {"retain": "reference_hidden_RTD", "unlearn": "reference_logp_UT"}
    readings: Any = {
        role: types.SimpleNamespace(key="-states", field=field)
        for role, field in fields.items()
    }
    of = texts(retain=packer(1), unlearn=packer(2), update=packer(3))
    find = lambda readings, first, how="cached": frozen_states.of_run(
        model, of, of_run(how, readings, first), ROWS, "run"
    )
    found = find(readings, 0)
    assert found.reference == {
        fields["retain"]: keys["reference"],
        fields["unlearn"]: keys["reference-unlearn"],
    }
    assert not found.lower
    assert len(set(keys.values())) == 2
    assert all(key.endswith("-states") for key in keys.values())
    assert models == [model.params]
    # Of the layers that never move, of every role, beside what is read of the model.
    found = find(readings, 1)
    assert {role: lower.cache for role, lower in found.lower.items()} == {
        role: keys[f"reference-lower-{role}"] for role in COUNTS
    }
    assert len(set(keys.values())) == 5 and models == [model.params] * 2
    # Nothing is hashed where nothing is read.
    for nothing in (find({}, 0), find(readings, 1, "live")):
        assert not nothing.reference and not nothing.lower
    assert len(models) == 2


@pytest.mark.parametrize("beginning", [None, BEGINNING])
def test_lower_states_of_any_rows_are_those_of_a_forward_pass(
    model, beginning, tmp_path
):
    packers = {role: packer(i, beginning) for i, role in enumerate(COUNTS)}
    settings = of_run("cached", {"retain": Reading("retain")}, 1)
    of = (model, texts(**packers), settings, ROWS, str(tmp_path))
    found = frozen_states.of_run(*of)
    # Another order than the one they were computed in.
    rows = [p.pack(seed=3, most=COUNTS[role]) for role, p in packers.items()]
    batch = concatenate(rows)
    fields = found.fields(batch, ROWS)
    placed = batch.place(ROWS.total)
    how: dict[str, Any] = {"config": model.config, "compute": model.compute}
    wanted = decoder.with_lower(model.params, batch=placed, first=1, **how)
    real = np.asarray(batch.segment_ids_BT) > 0
    lower = np.asarray(fields["lower_BTD"])
    np.testing.assert_allclose(
        lower[real], np.asarray(wanted.lower_BTD)[real], atol=1e-5
    )
    assert not lower[~real].any() and real.any() and (~real).any()
    # A pass that begins there gives what a whole one gives, and the same gradients.
    given = placed.replace(lower_BTD=fields["lower_BTD"])

    def total(params, batch):
        states = decoder.forward_packed(
            params, batch=batch, first_trained_layer=1, **how
        )
        return (states**3)[real].sum()

    for one, other in zip(
        jax.tree.leaves(jax.value_and_grad(total)(model.params, placed)),
        jax.tree.leaves(jax.value_and_grad(total)(model.params, given)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert set(fields) == {"lower_BTD", "reference_hidden_RTD"}
    # What the loss reads was computed from them.
    states = decoder.forward_packed(model.params, batch=placed, **how)
    retained = ROWS.holds("retain", ROWS.total)
    read = np.asarray(fields["reference_hidden_RTD"])
    known = np.asarray(batch.token_index_BT)[retained] >= 0
    wanted = np.asarray(states)[retained]
    np.testing.assert_allclose(read[known], wanted[known], atol=1e-4)
    # They are there the next time.
    again = frozen_states.of_run(*of)
    np.testing.assert_array_equal(again.fields(batch, ROWS)["lower_BTD"], lower)
