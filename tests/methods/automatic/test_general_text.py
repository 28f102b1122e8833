# SPDX-License-Identifier: Apache-2.0
"""Whether packaged text is of a language that a model knows."""

import collections
import math

import pytest

from jax_surgery.data import asked
from jax_surgery.methods.automatic import general_text
from jax_surgery.models.model import Model


def test_a_random_model_predicts_worse_than_counting(tiny_model, monkeypatch):
    monkeypatch.setattr(general_text, "PASSAGES", 2)
    tokenizer = tiny_model.tokenizer
    found = general_text.fit(Model(tiny_model.params, tiny_model.config, tokenizer))
    ids = []
    for text in asked.trained_passages()[:2]:
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [tokenizer.eos_token_id]  # learned too: a text ends
    counts = collections.Counter(ids).values()
    entropy = -sum(n / len(ids) * math.log(n / len(ids)) for n in counts)
    assert found.frequencies == pytest.approx(entropy, abs=1e-6)
    assert found.model == pytest.approx(math.log(tiny_model.config.vocab_size), abs=1)
    assert not found.known


def test_a_model_of_the_language_is_better_than_counting():
    """As measured of SmolLM2-135M."""
    assert general_text.Fit(model=3.4, frequencies=6.6).known
