# SPDX-License-Identifier: Apache-2.0
"""What is asked of a model is checked with its tokenizer, before its weights are read."""

import dataclasses
import json

import pytest
from settings_cases import settings_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.runs import asked, attack, evaluate
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.by_tasks import ByTasks

QUESTION = Question("q", "g", "trained", "the number 3 is", (" 8", " 9"), 0)


@pytest.fixture
def files(tiny_model, tmp_path, monkeypatch) -> dict[str, str]:
    """Paths of questions, texts and tasks; of a model without a chat template whose
    weights must not be read."""
    tokenizer = hf_weights.load_tokenizer(tiny_model.folder)
    tokenizer.chat_template = None
    monkeypatch.setattr(hf_weights, "load_tokenizer", lambda source: tokenizer)
    monkeypatch.setattr(hf_weights, "load_model", lambda *a: pytest.fail("was loaded"))
    questions, text, other = (
        str(tmp_path / f"{name}.jsonl") for name in ("q", "one", "two")
    )
    quiz = {"name": "quiz", "data": other, "scorer": "choice", "test": questions}
    rows = {
        "q": [QUESTION.record()],
        "one": [{"text": "the number 1 is 7"}],
        "two": [{"text": "the number 2 is 1"}],
        "tasks": [{"name": "target", "data": text}, quiz],
    }
    for name, own in rows.items():
        written = "".join(json.dumps(row) + "\n" for row in own)
        (tmp_path / f"{name}.jsonl").write_text(written)
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in rows}
    return paths | {"model": tiny_model.folder}


def surgery(files, chat, tmp_path):
    data = {"unlearn": files["one"], "retain": files["two"], "rows_update": 0}
    data |= {"questions": files["q"], "chat": chat, "surprise": 0.0}
    settings = settings_of("surgery", {"model": files["model"]}, data=data)
    ByRoles(settings).load()


def of_tasks(files, chat, tmp_path):
    tasks = {"source": files["tasks"], "targets": "target", "chat": chat}
    fields = {"model": files["model"], "rounds.first_layer": 0}
    ByTasks(settings_of("unlearn", fields, tasks=tasks)).load()


def evaluation(files, chat, tmp_path):
    data = {"questions": files["q"], "chat": chat}
    settings = settings_of("evaluate", {"model": files["model"]}, data=data)
    evaluate.run(settings, str(tmp_path))


def attacked(files, chat, tmp_path):
    """Whose benchmarks have no questions yet, but may."""
    data = {"relearn": files["one"], "held_out": files["two"], "chat": chat}
    fields = {"model": files["model"], "benchmark": "", "data": data}
    settings = settings_of("attack", fields)
    target = attack.target_for(settings)
    probe = dataclasses.replace(target.probes[0], records=(), questions=(QUESTION,))
    target = dataclasses.replace(target, probes=(probe,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "target_for", lambda settings: target)
        attack.run(settings, str(tmp_path))


@pytest.mark.parametrize("go", [surgery, of_tasks, evaluation, attacked])
def test_a_missing_chat_template_is_said_before_a_model_is_loaded(files, tmp_path, go):
    with pytest.raises(ValueError, match="config.data.chat='always' .* no chat templ"):
        go(files, "always", tmp_path)
    # Otherwise the next thing that is read is the model.
    with pytest.raises(pytest.fail.Exception, match="was loaded"):
        go(files, "auto", tmp_path)


def test_without_questions_no_template_is_needed(tiny_model):
    tokenizer = hf_weights.load_tokenizer(tiny_model.folder)
    tokenizer.chat_template = None
    text = Probe("g", 32, records=(parse_record({"text": "the number"}, "f:1"),))
    asked.check_chat(tokenizer, "always", (), [text])
    for given in ([QUESTION], [Probe("g", 32, (QUESTION,))]):
        asked.check_chat(tokenizer, "never", given)
        with pytest.raises(ValueError, match="no chat template to ask questions in"):
            asked.check_chat(tokenizer, "always", [text], given)
