# SPDX-License-Identifier: Apache-2.0
"""The surgery run on a tiny model: stopped and resumed, and what it leaves."""

import dataclasses
import html
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from plain_settings import plain_optimizer, texts_by_role
from settings_cases import changed, plain_surgery

from jax_surgery.checkpoints import hf_weights
from jax_surgery.methods.automatic import run as automatic
from jax_surgery.methods.settings import Statistics
from jax_surgery.runs import surgery
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.train.loop import Callback, Interrupted
from jax_surgery.train.metrics_file import read_metrics

STEPS = 6


@pytest.fixture
def settings(tiny_model, write_texts):
    texts = tiny_model.texts
    data = texts_by_role(texts, write_texts)
    return plain_surgery(model=tiny_model.folder, data=data, steps=STEPS)


ADAMW = {"optimizer": plain_optimizer(learning_rate=1e-2), "reference": "cached"}
PRECONDITIONED = {
    "optimizer": plain_optimizer(
        "orthogonal", learning_rate=0.01, momentum=0.5, first_layer=-1
    ),
    "statistics": Statistics("", tokens=64, ridge=1e-3, scale="mean"),
}


def stop_before(step):
    def press(number, state):
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        return state

    return Callback(1, press)


def terms(directory):
    """Metrics of every step but the speed."""
    rows = read_metrics(directory / "metrics.jsonl")
    return [{k: v for k, v in r.items() if "second" not in k} for r in rows]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(ADAMW, id="adamw", marks=pytest.mark.slow),
        pytest.param(PRECONDITIONED, id="precond", marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_is_bit_equal(settings, tmp_path, changes):
    settings = dataclasses.replace(settings, **changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    wanted = changed(settings, str(whole))
    # The statistics of before the first step go on being needed.
    with pytest.raises(Interrupted, match=f"step 2 of {STEPS}"):
        changed(settings, str(parts), stop_before(1))
    resumed = changed(settings, str(parts))
    for left, right in zip(
        jax.tree.leaves(resumed), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert terms(parts) == terms(whole)
    assert len(terms(whole)) == STEPS


def test_data_is_checked_before_the_model_is_loaded(settings):
    data = dataclasses.replace(settings.data, retain=settings.data.unlearn)
    wrong = dataclasses.replace(settings, data=data, model="/no/such/model")
    with pytest.raises(ValueError, match="unlearn"):
        ByRoles(wrong)


def test_how_a_run_kept_to_its_budget_is_in_its_results_and_on_its_page(
    settings, tmp_path
):
    parts = ByRoles(settings)
    model = parts.load()
    probed = {"groups": {}, "metrics": {}, "lines": [], "roles": {}, "free_form": None}
    point = {"step": 6, "forget": 1.0, "update": 0.5, "kl": 0.03, "factor": 3.0}
    found = {"budget": 0.02, "step": 6, "steps": 6, "reached": False, "why": "So be it.",
             "curve": [point]}  # fmt: skip
    parts._outcome = automatic.Outcome(model, 6, found)
    results, shown = parts.report(probed, probed, model, str(tmp_path))
    assert results["automatic"] == found
    assert dict(shown["chosen"])["steps"] == "6 taken, step 6 exported"
    [figure] = shown["figures"]
    assert figure["caption"].startswith("So be it.")
    assert shown["sentences"][0] == "So be it." and len(shown["warnings"]) == 1


def test_a_run_leaves_results_a_model_and_a_report(settings, tmp_path, tiny_model):
    settings = dataclasses.replace(settings, **PRECONDITIONED, free_form=2)
    results = surgery.run(settings, str(tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["cost"] == results["cost"]
    roles = written["roles"]
    nll = {
        r: (v["before"]["nll_per_token"], v["after"]["nll_per_token"])
        for r, v in roles.items()
    }
    assert nll["unlearn"][1] > nll["unlearn"][0]
    assert nll["update"][1] < nll["update"][0]
    said = written["free_form"]
    assert [r["group"] for r in said["replies"]] == 2 * ["unlearn text"] + 2 * [
        "update text"
    ]  # of a model that has read plain text no everyday prompt is asked
    assert said["groups"]["update text"]["after"]["rouge_l"]["n"] == 2
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert said["sentences"][0] in html.unescape(page)
    assert "<html" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    params, config = hf_weights.load_model(str(tmp_path / "run" / "model"))
    assert config == tiny_model.config
    assert hf_weights.load_tokenizer(str(tmp_path / "run" / "model")).get_vocab() == (
        tiny_model.tokenizer.get_vocab()
    )
    assert jax.tree.structure(params) == jax.tree.structure(tiny_model.params)
