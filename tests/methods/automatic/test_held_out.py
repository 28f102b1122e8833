# SPDX-License-Identifier: Apache-2.0
"""Tests of text that is held out: the KL on it, and which it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import held_out
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model

CONFIG = ModelConfig(37, 16, 24, 2, 4, 2, 4, initializer_range=0.3)


def documents(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Document(rng.integers(0, 37, n).astype(np.int32), np.arange(n) > 2, str(i))
        for i, n in enumerate(rng.integers(4, 10, count))
    ]


def test_the_kl_is_the_mean_over_learned_tokens_each_up_to_a_change():
    before, after = decoder.init_params(CONFIG, 0), decoder.init_params(CONFIG, 1)
    model = Model(before, CONFIG, None, decoder.DEFAULT_COMPUTE, "")
    kinds = {"neighbours": documents(5), "chat": documents(3, 1)}
    held = held_out.HeldOut(model, kinds, 16)
    assert held.kl(before) == pytest.approx({"neighbours": 0, "chat": 0}, abs=1e-6)

    def logp(params, batch):
        hidden_BTD = decoder.forward_packed(params, CONFIG, batch)
        return jax.nn.log_softmax(hidden_BTD @ output_head.kernel(params))

    for kind, of_kind in kinds.items():
        # Each document in a row of its own, positions by hand.
        found = []
        for document in of_kind:
            batch = Packer([document], 16, "tokens").pack().for_devices()
            p, q = logp(before, batch), logp(after, batch)
            kl_BT = (jnp.exp(p) * (p - q)).sum(-1)
            found += kl_BT[0, 2 : len(document.tokens) - 1].tolist()
        assert min(found) < held_out.CHANGED < max(found)
        counted = np.minimum(found, held_out.CHANGED)
        assert held.kl(after)[kind] == pytest.approx(np.mean(counted), rel=1e-4)


def test_some_of_each_kind_is_held_out_that_has_enough():
    kinds = {
        "retain": documents(9),
        "chat": documents(45),
        "neighbours": documents(200),
    }
    train, held = held_out.split(kinds, seed=0)
    assert {kind: len(rows) for kind, rows in held.items()} == {
        "chat": 9,
        "neighbours": held_out.MOST,
    }
    for kind, rows in kinds.items():
        both = [d.origin for d in (*train[kind], *held.get(kind, []))]
        assert sorted(both) == sorted(d.origin for d in rows)
    again = held_out.split(kinds, seed=0)[1]
    assert [d.origin for d in again["chat"]] == [d.origin for d in held["chat"]]
    # Where no kind has enough, of the largest some are all the same.
    few = {"retain": documents(9), "chat": documents(2)}
    assert {k: len(rows) for k, rows in held_out.split(few, 0)[1].items()} == {
        "retain": 1
    }


def test_a_part_is_the_first_batch_of_what_lies_nearest(monkeypatch):
    monkeypatch.setattr(held_out, "ROWS", 1)
    before, after = decoder.init_params(CONFIG, 0), decoder.init_params(CONFIG, 1)
    model = Model(before, CONFIG, None, decoder.DEFAULT_COMPUTE, "")
    texts = documents(6)
    # Rows are filled from the first document on; one fills a row where it is long.
    long = dataclasses.replace(texts[0], tokens=np.resize(texts[0].tokens, 10))
    long = dataclasses.replace(long, learned=np.arange(10) > 2)
    kinds = {"chat": texts, "neighbours": [long, *texts]}
    found = held_out.HeldOut(model, kinds, 10)
    alone = held_out.HeldOut(model, {"text": [long]}, 10)
    part = found.kl_of_part(after)
    assert part == pytest.approx(alone.kl(after)["text"], rel=1e-5)
    assert part == alone.kl_of_part(after)
    assert found.kl(after)["neighbours"] != pytest.approx(part, rel=1e-5)
