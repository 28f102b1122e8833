# SPDX-License-Identifier: Apache-2.0
"""A chat model's answers end with its turn, and are asked for as they are learned."""

import json
import pathlib
import shutil

import pytest

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import rouge_l
from jax_surgery.report import examples

CASE = pathlib.Path(__file__).parents[2].parent / "shared" / "cases" / "04-eos-list"
needs_case = pytest.mark.skipif(not CASE.is_dir(), reason="no ../shared/cases here")


def test_every_list_of_end_tokens_counts(tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    eos = tiny_model.tokenizer.eos_token_id
    for given, expected in (
        ({"eos_token_id": [eos, 7]}, {eos, 7}),
        ({"eos_token_id": 9}, {eos, 9}),
        ({}, {eos}),
    ):
        file.write_text(json.dumps(given))
        model = hf_weights.load(str(tmp_path / "model"))
        assert set(model.stops) == expected
    for broken in ("{", "[]", '{"eos_token_id": "x"}'):
        file.write_text(broken)
        with pytest.raises(ValueError, match="generation_config.json"):
            hf_weights.load(str(tmp_path / "model"))


@needs_case
def test_case_end_tokens_of_the_generation_config():
    model = hf_weights.load(str(CASE / "model"))
    read = records.read_source(str(CASE / "forget.jsonl"))
    probe = Probe("forget", 64, records=tuple(read))
    assert rouge_l.greedy_answers(model, probe) == ("Tamsin Oakes.",)
    assert rouge_l.METRIC(model, probe).value == 1.0
    documents = encode(read, model.tokenizer, 64)
    shown = examples.of_texts(model, {"unlearn": documents}).after(model)
    assert shown[0]["before"] == shown[0]["reference"] == "Tamsin Oakes."
