# SPDX-License-Identifier: Apache-2.0
"""What the notebooks call: runs in this process, pictures as they go, chats."""

import json
import time
from typing import Any

import IPython.display
import pytest
from settings_cases import config_of

from jax_surgery.plan import here
from jax_surgery.runs import evaluate, notebook
from jax_surgery.train.curve import CURVE
from jax_surgery.train.loop import Interrupted

MIB = 2**20


@pytest.fixture
def config(tiny_model, write_texts):
    """An evaluation of the tiny model."""
    text = write_texts("text", tiny_model.texts)
    fields = {"model": tiny_model.folder, "data.text": text, "data.questions": ""}
    return config_of("evaluate", fields)


def test_a_run_gives_its_results_and_one_that_is_finished_is_read(
    config, tmp_path, capsys
):
    place = str(tmp_path / "run")
    found = notebook.run(config, place, watch=False)
    assert found == json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["model"] == config.model
    capsys.readouterr()
    assert notebook.run(config, place) == found
    assert "finished: its results are read" in capsys.readouterr().out
    config.data.context = 16
    with pytest.raises(ValueError, match="holds a run of another config"):
        notebook.run(config, place, watch=False)


def test_a_run_that_was_stopped_says_how_a_notebook_goes_on(
    config, tmp_path, monkeypatch
):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", stopped)
    place = str(tmp_path / "run")
    with pytest.raises(Interrupted, match=f"same call again, with .* {place}$"):
        notebook.run(config, place, watch=False)


class Handle:
    """A place of a page whose content is replaced."""

    def __init__(self):
        self.shown: list[str] = []

    def update(self, content: Any) -> None:
        self.shown.append(content.data)


def test_curves_are_drawn_while_a_run_writes_them(tmp_path, monkeypatch):
    handle = Handle()
    monkeypatch.setattr(notebook, "EVERY", 0.01)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    with notebook._Watched(notebook.epath.Path(tmp_path)):
        (tmp_path / CURVE).write_text('{"step": 0, "retain": 1.0}\n')
        deadline = time.monotonic() + 30
        while not handle.shown and time.monotonic() < deadline:
            time.sleep(0.01)
        first = len(handle.shown)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "update_ce": 2.0}\n')
    assert first == 1 and "accuracies over steps" in handle.shown[0]
    assert "the three terms over steps" in handle.shown[-1]
    shown = len(handle.shown)
    time.sleep(0.05)
    assert len(handle.shown) == shown == 2  # drawn again only where there is more


@pytest.mark.parametrize("free", [3.0, 1.5, 0.5])
def test_the_weights_move_where_that_fits_else_low_rank_deltas(
    tiny_model, free, monkeypatch, capsys
):
    texts = {f"data.{role}": "x.jsonl" for role in ("unlearn", "update", "retain")}
    whole, small = (
        config_of("surgery", {"model": tiny_model.folder, "data.questions": ""} | more)
        for more in (
            texts,
            texts
            | {"lora.rank": 2, "optimizer.name": "adamw", "optimizer.matrices": ""},
        )
    )
    needs = lambda settings, _: (1 if settings.lora.rank else 2) * notebook.GIB
    monkeypatch.setattr(here, "step_bytes", needs)
    if free < 1:
        with pytest.raises(ValueError, match=r"needs 2.0 GiB .* deltas 1.0, and 0.5"):
            notebook.fitting(whole, small, int(free * notebook.GIB))
        return
    chosen = notebook.fitting(whole, small, int(free * notebook.GIB))
    assert chosen is (whole if free > 2 else small)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("the weights" if free > 2 else "low-rank deltas")
    assert f"{free:.1f} GiB" in line and ("(all weights" in line) == (free < 2)


def test_the_accelerator_and_its_free_memory_are_said():
    assert notebook.accelerator().startswith("1 x cpu (cpu), ")
    assert notebook.free_memory() > 100 * MIB


def test_models_are_asked_alike_and_what_they_say_is_shown_as_text(tiny_model):
    chat = notebook.Chat({"before": tiny_model.folder, "<after>": tiny_model.folder})
    said = chat.ask("the number 3 is", 4)
    assert said["before"] == said["<after>"] != ""
    table = chat.table(["the number 3 is", "<b>?"], 4).data
    assert "&lt;b&gt;?" in table and "&lt;after&gt;" in table and "<b>" not in table
    assert table.count(said["before"]) >= 2
    chat.close()
    assert chat.ask("the number 3 is") == {}


def test_a_question_that_is_typed_is_answered_below(tiny_model):
    pytest.importorskip("ipywidgets")  # of the extra `colab`
    chat = notebook.Chat({"model": tiny_model.folder})
    field, shown = chat.widget(4).children
    field.value = "the number 3 is"
    assert field.value == "" and not field.disabled
    assert "the number 3 is" in shown.value
    assert chat.ask("the number 3 is", 4)["model"] in shown.value
    field.value = "the number 5 is"
    assert shown.value.index("number 5") < shown.value.index("number 3")


def test_a_verdict_is_explained():
    found = {"verdict": "suppressed", "why": "it comes back"}
    shown = notebook.verdict({"verdict": found, "attacks": []}).data
    assert "is suppressed: it comes back." in shown
    assert notebook.MEANINGS["suppressed"] in shown
    nothing = notebook.verdict({"verdict": {}, "attacks": []}).data
    assert "can be asked" in nothing
