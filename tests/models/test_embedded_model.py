# SPDX-License-Identifier: Apache-2.0
"""The model in the package: its size, and what it knows before surgery."""

import pathlib

import pytest
from plain_settings import plain_compute

from jax_surgery.benchmarks import embedded as benchmark
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.probes import Probe
from jax_surgery.metrics import multiple_choice
from jax_surgery.models.model import Model

OPTIMISED = True  # see conftest

FOLDER = pathlib.Path(benchmark.MODEL)


@pytest.fixture(scope="module")
def accuracies():
    params, config = hf_weights.load_model(str(FOLDER))
    tokenizer = hf_weights.load_tokenizer(str(FOLDER))
    questions = multiple_choice.subsample(benchmark.questions(), 600)
    model = Model(params, config, tokenizer, plain_compute())
    answers = multiple_choice.answer(model, Probe("all", 256, questions))
    return multiple_choice.summarise(answers)


def test_model_and_tokenizer_are_small():
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 12e6


@pytest.mark.parametrize("group", ["obsolete", "problematic", "retain", "general"])
def test_it_knows_what_it_was_trained_on(accuracies, group):
    assert accuracies[group]["trained"]["accuracy"] >= 0.97


@pytest.mark.parametrize("group", ["obsolete", "problematic", "retain"])
def test_it_knows_people_in_unseen_wordings_too(accuracies, group):
    assert accuracies[group]["unseen"]["accuracy"] >= 0.97


def test_it_is_at_chance_on_the_replacements(accuracies):
    for wording in ("trained", "unseen"):
        assert 0.20 <= accuracies["update"][wording]["accuracy"] <= 0.30
