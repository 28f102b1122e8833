# SPDX-License-Identifier: Apache-2.0
"""The page of a run that goes on: there from the first evaluation, as new as the last."""

import json
import re

import pytest
from report_cases import METRICS, TASKS, parsed
from run_results import asked

from jax_surgery.parallel import distributed
from jax_surgery.report import live, page, table
from jax_surgery.report.live import Live
from jax_surgery.storage import files
from jax_surgery.train.loop import Interrupted, TrainingDiverged

BEFORE = {"old": asked(1.0), "new": asked(0.25)}


def shown() -> page.Page:
    rows = live.begun(table.accuracy_rows(BEFORE, BEFORE))
    return page.Page(title="Mine", subtitle="model m", rows=rows, settings={})


def read(folder) -> str:
    [file] = files.children(f"{folder}/report")
    text = file.read_text()
    parsed(text)
    return text


def cells(text: str) -> list[list[str]]:
    """What stands in the table, without intervals."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    cell = r"<t[dh][^>]*>([^<]*)"
    return [re.findall(cell, row) for row in rows]


def note(folder, name: str, *rows: dict) -> None:
    files.write_text(f"{folder}/{name}", "".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/run"


def test_the_page_is_there_before_the_first_step_and_new_at_each_evaluation(folder):
    watched = Live(folder, shown())
    watched.write()
    text = read(folder)
    assert "<b>Unfinished.</b>" in text and "written before the first step" in text
    assert f'<meta http-equiv="refresh" content="{live.RELOAD}">' in text
    assert '<ul class="verdict">' not in text  # nothing is known yet
    assert cells(text)[1][:4] == ["old", "", "100.0 %", ""]
    [callback] = watched.callbacks(2)
    assert [callback.due(step) for step in range(5)] == [True, False] * 2 + [True]
    note(folder, "curve.jsonl", {"step": 2, "old": 0.6}, {"step": 4, "old": 0.4})
    note(folder, "metrics.jsonl", *METRICS)
    assert callback.run(4, "state") == "state"
    text = read(folder)
    assert "written at step 4, " in text
    head, old, new = cells(text)[:3]
    assert head[3] == "step 4"
    assert (old[3], new[3]) == ("40.0 %", "")
    assert "Accuracies over steps" in text and "The three terms over steps" in text


def test_the_way_to_a_budget_and_rounds_of_stages_are_drawn(tmp_path):
    watched = Live(str(tmp_path), shown(), 0.02)
    watched.write()
    assert "Trade-off curve" not in read(tmp_path)
    point = {"step": 6, "kl": 0.01, "forget": 1.0, "update": 0.5}
    note(tmp_path, "automatic.jsonl", point)
    rounds = [{"step": i, "pushed_down": 9 - i, "pushed_up": i} for i in range(4)]
    note(tmp_path, "stages/1/metrics.jsonl", *rounds)
    watched.write("at step 6")
    text = read(tmp_path)
    assert "Trade-off curve" in text and "exported" not in text
    assert "Stage 1: tokens that are not at their ends" in text
    assert text.count("<svg") == 2


def test_rounds_that_are_short_are_not_all_shown(tmp_path, monkeypatch):
    """A page takes a second here, and may take a twentieth of the time."""
    clock = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    watched, written = Live(str(tmp_path), shown()), []

    def write(where):
        written.append(where)
        clock[0] += 1

    monkeypatch.setattr(watched, "write", write)
    [callback] = watched.between_rounds()
    for number in range(60):
        callback.run(number, None)
        clock[0] += 0.5
    assert written == ["at round 1", "at round 41"]


@pytest.mark.parametrize("error", [Interrupted("saved."), TrainingDiverged("NaN <b>")])
def test_a_run_that_stops_says_so_and_is_not_read_again(tmp_path, error):
    watched = Live(str(tmp_path), shown())
    watched.write()
    with pytest.raises(type(error)), watched.until_finished():
        raise error
    text = read(tmp_path)
    assert "The run has stopped" in text and "http-equiv" not in text
    assert ("saved." in text) or ("NaN &lt;b&gt;" in text)


def test_a_run_that_is_refused_leaves_no_page_behind(tmp_path):
    for steps, left in ((False, []), (True, ["report"])):
        watched = Live(str(tmp_path), shown())
        with pytest.raises(ValueError, match="unknown"), watched.until_finished():
            watched.write()
            if steps:
                watched.write("at step 2")
            raise ValueError("unknown")
        assert files.names(tmp_path) == left


def test_the_lead_writes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_lead", lambda: False)
    Live(str(tmp_path), shown()).write()
    assert not files.children(tmp_path)


def test_of_tasks_nothing_is_said_to_be_removed_yet():
    rows = live.begun(table.task_rows(TASKS))
    assert not any(row.after or row.change for row in rows)
    assert all(row.before for row in rows)
