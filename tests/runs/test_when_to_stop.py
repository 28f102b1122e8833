# SPDX-License-Identifier: Apache-2.0
"""A plain surgery with rules of when to stop: what it keeps, names and exports."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from settings_cases import plain_surgery

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.questions import Question
from jax_surgery.runs import on_the_way, surgery
from jax_surgery.train.loop import Callback, Interrupted
from jax_surgery.train.metrics_file import read_metrics

# A rule that no point of so short a run breaks.
NEVER_ENDS = {"stop.retention": 0.9}


@pytest.fixture
def fields(tiny_model, write_texts):
    """Fits two texts to unlearn fast; what is known of them is asked without questions."""
    return {
        "model": tiny_model.folder,
        "data.unlearn": write_texts("unlearn", tiny_model.texts[:3]),
        "data.update": write_texts("update", tiny_model.texts[3:6]),
        "data.retain": write_texts("retain", tiny_model.texts[6:]),
        "attacks": "",
        "steps": 6,
        "optimizer.learning_rate": 2e-2,
        "loop.evaluate_every": 2,
        "save_dtype": "float32",
    }


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def params_of(folder):
    return hf_weights.load_model(str(folder))[0]


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plain_surgery_stops_at_its_rule_and_exports_the_point_it_names(
    fields, tmp_path
):
    """Every score is at most 1, so the first evaluation after step 0 is at it."""
    surgery.run(
        plain_surgery(**fields, **{"stop.reference": "1.0"}), str(tmp_path / "run")
    )
    found = results_of(tmp_path / "run")["stop"]
    assert found["chosen"]["step"] == 2 and found["chosen"]["model"] == "front/step-2"
    assert found["why"].startswith("The run ended at step 2: no group to be unlearned")
    assert [point["step"] for point in found["points"]] == [0, 2]
    # The step during which it was seen is taken, and not exported.
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps[-1] == 3
    model, kept = (params_of(tmp_path / "run" / n) for n in ("model", "front/step-2"))
    assert_same(model, kept)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Step 2 is exported" in page


@pytest.mark.slow
def test_the_front_is_kept_and_no_more_than_asked(fields, tmp_path):
    """Where no rule ends a run all steps are taken, and the last point is measured too."""
    run = lambda name, **more: surgery.run(
        plain_surgery(**fields, **NEVER_ENDS, **more),
        str(tmp_path / name),
    )
    run("all", **{"stop.keep": 0})
    found = results_of(tmp_path / "all")["stop"]
    assert [point["step"] for point in found["points"]] == [0, 2, 4, 6]
    front = {p["step"] for p in found["front"]} - {0}
    kept = {int(f.name[5:]) for f in (tmp_path / "all" / "front").iterdir()}
    assert front and front <= kept <= front | {found["chosen"]["step"]}
    assert all(("model" in p) == bool(p["step"]) for p in found["front"])
    run("one", **{"stop.keep": 1})
    [only] = (tmp_path / "one" / "front").iterdir()
    chosen = results_of(tmp_path / "one")["stop"]["chosen"]
    assert f"front/{only.name}" == chosen["model"]
    assert_same(params_of(tmp_path / "one" / "model"), params_of(only))


@pytest.mark.slow
def test_a_run_stopped_and_resumed_chooses_the_same_point(
    fields, tmp_path, monkeypatch
):
    settings = plain_surgery(**fields, **NEVER_ENDS, **{"loop.checkpoint_every": 1})
    surgery.run(settings, str(tmp_path / "whole"))
    plain = on_the_way.OnTheWay.callbacks

    def stopping(self, model_of, directory):
        def press(step, state):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return state

        return [*plain(self, model_of, directory), Callback(1, press)]

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(on_the_way.OnTheWay, "callbacks", stopping)
        surgery.run(settings, str(tmp_path / "parts"))
    surgery.run(settings, str(tmp_path / "parts"))
    whole, parts = (results_of(tmp_path / n)["stop"] for n in ("whole", "parts"))
    assert whole == parts
    assert_same(
        params_of(tmp_path / "whole/model"), params_of(tmp_path / "parts/model")
    )


@pytest.mark.slow
def test_questions_are_what_points_are_made_of(fields, tiny_model, tmp_path):
    ask = lambda i, group: Question(
        f"{group}{i}", group, "trained", f"the number {i}", (" is 1", " is"), 1
    )
    asked = [
        ask(i, group) for group in ("unlearn", "update", "retain") for i in range(2)
    ]
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps(q.record()) + "\n" for q in asked)
    )
    more = {
        "data.questions": str(tmp_path / "q.jsonl"),
        "stop.retention": 0.9,
        "steps": 3,
    }
    surgery.run(plain_surgery(**fields | more), str(tmp_path / "run"))
    points = results_of(tmp_path / "run")["stop"]["points"]
    assert [point["step"] for point in points] == [0, 2, 3]
    curve = read_metrics(tmp_path / "run" / "curve.jsonl")
    for point, row in zip(points[:2], curve, strict=True):
        for group in ("unlearn", "update", "retain"):
            assert point[f"score_{group}"] == row[group]
        # Chance of two options is the reference where no rule names another.
        assert point["above"] == pytest.approx(row["unlearn"] - 0.5)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"loop.evaluate_every": 0}, "evaluate_every=0 does not go with config.stop"),
        ({"lora.rank": 2}, "config.lora.rank=2 does not go with config.stop.reference"),
        (
            {"method": "surgery@update;surgery@unlearn"},
            "one stage of a method that descends",
        ),
        (
            {"stop.reference": "chance"},
            "is of questions, and config.data.questions is empty",
        ),
        ({"stop.reference": "no/such/run"}, "there is no no/such/run/results.json"),
    ],
)
def test_rules_that_nothing_can_read_are_refused_first(fields, more, words, tmp_path):
    given = fields | {"stop.reference": "0.5", "model": "no/such/model"} | more
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        surgery.run(plain_surgery(**given), str(tmp_path / "run"))
