# SPDX-License-Identifier: Apache-2.0
"""Whatever happened to a model's directory, it is loaded or one line says what is wrong."""

import pathlib
import warnings

import pytest
from fuzzed_files import copied, damage, files_of
from hypothesis import given, note, settings
from hypothesis import strategies as st

from jax_surgery.checkpoints import hf_weights
from jax_surgery.runs import start


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model"


def load(folder: pathlib.Path) -> None:
    """What every run does with a model's directory before it computes."""
    tokenizer = hf_weights.load_tokenizer(str(folder))
    tokenizer(["the number 3"], return_offsets_mapping=True)
    hf_weights.load_config(str(folder))
    hf_weights.load_model(str(folder))


@settings(max_examples=25)
@given(st.data())
def test_any_damage_to_a_model_is_loaded_or_refused(tiny_model, place, data):
    source = pathlib.Path(tiny_model.folder)
    folder = copied(source, place)
    for _ in range(data.draw(st.integers(1, 2))):
        note(damage(data.draw, folder, files_of(source)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load(folder)
        except (ValueError, FileNotFoundError) as error:
            assert start.is_expected(error), repr(error)
            assert str(folder) in str(error) or "config.json" in str(error)
            assert len(str(error)) < 3000
