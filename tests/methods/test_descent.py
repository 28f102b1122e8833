# SPDX-License-Identifier: Apache-2.0
"""What methods that descend prepare before their first step."""

import types
from typing import Any

import numpy as np
from plain_settings import plain_compute

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods import descent
from jax_surgery.models.model import Model


def test_the_weights_are_hashed_once_for_all_reference_caches(tiny_model, monkeypatch):
    models, keys = [], {}

    def of_model(params, config):
        models.append(params)
        return "a" * 64

    def opened(folder, key):
        keys[folder.rpartition("/")[2]] = key
        return key

    monkeypatch.setattr(descent.checksums, "of_model", of_model)
    monkeypatch.setattr(descent.reference_cache, "open_on_all", opened)

    def packer(token: int) -> Packer:
        tokens = np.array([token, 2, 3], np.int32)
        return Packer([Document(tokens, np.ones(3, bool), "f:1")], 8, "tokens")

    reading: Any = types.SimpleNamespace(key="-states")
    readings = {"retain": reading, "unlearn": reading}
    settings: Any = types.SimpleNamespace(
        reference="cached", loss=types.SimpleNamespace(readings=lambda rows: readings)
    )
    texts: Any = types.SimpleNamespace(
        packers={"retain": packer(1), "unlearn": packer(4)}
    )
    rows: Any = None
    model = Model(
        tiny_model.params, tiny_model.config, tiny_model.tokenizer, plain_compute()
    )
    found = descent.cached_reference(model, texts, settings, rows, "run")
    assert found == {"retain": keys["reference"], "unlearn": keys["reference-unlearn"]}
    assert len(set(keys.values())) == 2
    assert all(key.endswith("-states") for key in keys.values())
    assert models == [tiny_model.params]
    readings.clear()
    assert descent.cached_reference(model, texts, settings, rows, "run") == {}
    assert len(models) == 1
