# SPDX-License-Identifier: Apache-2.0
"""Runs that go on write their page at each evaluation; the finished one takes its place."""

import json
import re

import numpy as np
import pytest
import subspace_run_cases as cases
from plain_settings import plain_optimizer, texts_by_role
from settings_cases import merged, plain_surgery

from jax_surgery.data.questions import Question
from jax_surgery.report import one_by_one, writer
from jax_surgery.runs import surgery
from jax_surgery.train import curve
from jax_surgery.train.loop import Interrupted, TrainingDiverged


@pytest.fixture
def pages(monkeypatch) -> list[str]:
    """Every page that is written, one after another."""
    found, write_page = [], writer.write_page

    def write(folder, shown):
        file = write_page(folder, shown)
        found.append(file.read_text())
        return file

    monkeypatch.setattr(writer, "write_page", write)
    return found


def said(html: str) -> str:
    """Where a page says it was written; "" on a finished one."""
    found = re.search(r"written (.*?), \d{4}-", html)
    return found[1] if found else ""


@pytest.fixture
def settings(tiny_model, write_texts, tmp_path):
    texts = tiny_model.texts
    questions = [
        Question(f"q{i}", "forget", "trained", f"the number {i} is", (" 1", " 2"), 1)
        for i in range(4)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(q.record()) + "\n" for q in questions))
    data = {
        **texts_by_role(texts, write_texts),
        "questions": str(file),
    }
    fields = {"model": tiny_model.folder, "data": data, "steps": 4, "attacks": ""}
    fields |= {"optimizer": vars(plain_optimizer(learning_rate=1e-2))}
    return plain_surgery(**merged(fields, {"loop": {"evaluate_every": 2}}))


@pytest.mark.slow
def test_a_surgery_is_shown_from_the_first_evaluation_on(settings, tmp_path, pages):
    surgery.run(settings, str(tmp_path / "run"))
    assert [said(html) for html in pages] == ["before the first step", "at step 2", ""]
    assert "<th>step 2</th>" in pages[1] and "Accuracies over steps" in pages[1]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["group_roles"] == {"forget": "unlearn"}
    answers = one_by_one.read(str(tmp_path / "run"))
    assert list(answers) == [("forget", "multiple_choice", f"q{i}") for i in range(4)]
    right = [answer.value for answer in answers.values()]
    assert np.mean(right) == results["after"]["forget"]["accuracy"]
    assert '<ul class="verdict">' in pages[2] and "Unfinished" not in pages[2]
    assert "<span>Forgotten</span>" in pages[2]
    assert "of 4 answers right, chance 50 %" in pages[2]


@pytest.mark.parametrize(
    "error", [Interrupted("it is saved."), TrainingDiverged("NaN")]
)
def test_a_surgery_that_stops_says_so_on_its_page(
    settings, tmp_path, pages, monkeypatch, error
):
    def stop(*of):
        raise error

    monkeypatch.setattr(curve, "watch", stop)
    with pytest.raises(type(error)):
        surgery.run(settings, str(tmp_path / "run"))
    assert f"): {error}" in pages[-1] and "http-equiv" not in pages[-1]
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_a_removal_is_shown_between_its_rounds(own, tmp_path, pages):
    cases.go(tmp_path / "run", **own, **{"tasks.targets": "dict_a"})
    places = [said(html) for html in pages]
    assert places[0] == "before the first step" and places[-1] == ""
    assert places[1] == "at round 1"
    assert "Stage 1: tokens that are not at their ends" in pages[1]
    assert "Forgotten" in pages[-1]
