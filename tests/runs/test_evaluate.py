# SPDX-License-Identifier: Apache-2.0
"""The evaluation run on a tiny model: its numbers, and what it refuses first."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from architecture_cases import logits_alone
from plain_settings import plain_compute
from settings_cases import settings_of

from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice
from jax_surgery.parallel import distributed
from jax_surgery.runs import evaluate


@pytest.fixture
def settings(tiny_model, tmp_path, write_texts):
    text = write_texts("a", tiny_model.texts)
    questions = [
        Question(f"q{i}", "numbers", "trained", f"the number {i}", (" is 1", " is"), 1)
        for i in range(5)
    ]
    lines = "".join(json.dumps(q.record()) + "\n" for q in questions)
    (tmp_path / "q.jsonl").write_text(lines)
    data = {"questions": str(tmp_path / "q.jsonl"), "text": text, "context": 64}
    return settings_of("evaluate", {"model": tiny_model.folder, "data": data})


def document_nll(model, text: str) -> float:
    """From all logits of one text alone, in float64."""
    tokenizer = model.tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
    ids.append(tokenizer.eos_token_id)
    logits_TV = logits_alone(model.params, model.config, ids)
    log_z_T = np.log(np.exp(logits_TV).sum(axis=-1))
    targets = np.array(ids[1:])
    return float((log_z_T[:-1] - logits_TV[np.arange(len(targets)), targets]).sum())


def test_nats_are_those_of_each_text_alone(tiny_model, settings, tmp_path, capsys):
    results = evaluate.run(settings, str(tmp_path))
    entry = results["text"][settings.data.text]
    wanted = [document_nll(tiny_model, text) for text in tiny_model.texts]
    np.testing.assert_allclose(entry["documents"], wanted, rtol=2e-5)
    np.testing.assert_allclose(
        entry["nll_per_token"], sum(wanted) / entry["tokens"], rtol=2e-5
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["evaluation"]["numbers"]["n"] == 5
    printed = capsys.readouterr().out
    assert "of 5 questions" in printed
    assert "nats per token" in printed


def ask(settings, tmp_path, **changes):
    data = dataclasses.replace(settings.data, **changes)
    # A model that does not exist: what is asked is checked before it is loaded.
    wrong = dataclasses.replace(settings, data=data, model="/no/such/model")
    evaluate.run(wrong, str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": "", "questions": ""}, ValueError, "nothing is asked"),
        ({"questions": "suite"}, ValueError, "'suite' has no multiple-choice"),
        ({"text": "no.jsonl"}, FileNotFoundError, "'no.jsonl' does not exist"),
        ({"questions": "no.jsonl"}, FileNotFoundError, "'no.jsonl' does not exist"),
        ({}, FileNotFoundError, "'/no/such/model' does not exist"),
    ],
)
def test_what_is_asked_is_checked_first(settings, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        ask(settings, tmp_path, **changes)
    assert not (tmp_path / "results.json").exists()


def test_of_many_processes_one_writes(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_lead", lambda: False)
    evaluate.run(settings, str(tmp_path))
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_held_in_the_compute_dtype(settings, tmp_path, monkeypatch, dtype):
    held = set()
    answer = multiple_choice.answer

    def spy(model, probe):
        held.update(str(leaf.dtype) for leaf in jax.tree.leaves(model.params))
        return answer(model, probe)

    monkeypatch.setattr(multiple_choice, "answer", spy)
    settings = dataclasses.replace(settings, compute=plain_compute(dtype=dtype))
    results = evaluate.run(settings, str(tmp_path))
    assert held == {dtype} and results["evaluation"]["numbers"]["n"] == 5
