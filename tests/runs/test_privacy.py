# SPDX-License-Identifier: Apache-2.0
"""The run that looks for traces: on a model that was trained on the text, and one that was
not; what its report says, and what it refuses first."""

import json
import re

import jax
import numpy as np
import on_devices
import pytest
from settings_cases import settings_of

from jax_surgery.attacks import Budget, Target
from jax_surgery.attacks.base import ignore
from jax_surgery.attacks.relearning import Relearning
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import parse_record
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed
from jax_surgery.report import privacy as report
from jax_surgery.runs import privacy

CONTEXT = 32


def rows(numbers):
    return [
        {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"} for i in numbers
    ]


def write(path, numbers) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(numbers)))
    return str(path)


@pytest.fixture
def fields(tiny_model, tmp_path) -> dict:
    return {
        "model": tiny_model.folder,
        "data.unlearn": write(tmp_path / "forget.jsonl", range(10)),
        "data.holdout": write(tmp_path / "unseen.jsonl", range(20, 32)),
        "data.context": CONTEXT,
    }


def go(fields, folder) -> dict:
    return privacy.run(settings_of("privacy", fields), str(folder))


def fitted(model: Model, numbers, folder) -> str:
    """A model that was trained on some rows, as a directory."""
    records = tuple(parse_record(row, f"a:{i}") for i, row in enumerate(rows(numbers)))
    train = Relearning(learning_rate=3e-3, steps=80, rows=8)
    target = Target(records, (), CONTEXT)
    params = train(model, target, Budget(), 0, ignore).model.params
    hf_weights.save_model(params, model.config, str(folder))
    model.tokenizer.save_pretrained(str(folder))
    return str(folder)


@pytest.mark.slow
def test_a_model_that_knows_the_text_shows_it(tiny_model, fields, tmp_path, capsys):
    start = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    never = fitted(start, range(10, 20), tmp_path / "never")
    full = fitted(start, range(20), tmp_path / "full")
    fields |= {"reference_model": never, "original_model": full}
    found = {
        name: go(fields | {"model": model}, tmp_path / name)
        for name, model in (("knows", full), ("never_knew", never))
    }
    for results in found.values():
        assert list(results["membership"]) == list(privacy.membership.SCORES)
        for entry in results["membership"].values():
            auc = entry["model"]["auc"]
            assert auc["interval"][0] <= auc["value"] <= auc["interval"][1]
            assert (auc["n"], auc["reference"]) == (22, 0.5)
            assert set(entry["model"]["tpr"]) == {"0.01", "0.001"}
    knows, never_knew = found["knows"], found["never_knew"]
    loss = knows["membership"]["loss"]
    assert loss["model"]["auc"]["value"] > 0.95 and loss["excess"]["p_holm"] < 0.05
    assert knows["leakage"]["value"] < -50 and never_knew["leakage"]["value"] == 0
    assert never_knew["membership"]["reference"]["model"]["auc"]["value"] == 0.5
    # The very model: nothing is erased. The one that never knew: all of it is.
    for kind in ("depth", "lens_depth"):
        assert knows[kind]["value"] == 0 and never_knew[kind]["value"] == 1
        assert knows[kind]["n"] <= knows[kind]["asked"] == 10
    layers = knows["depth"]["layers"]["reference_model"]
    assert [one["layer"] for one in layers] == [1, 2] and layers[-1]["value"] > 0.05
    assert len(knows["scores"]["model"]["min_k"]["unlearn"]) == 10
    said = " ".join(capsys.readouterr().out.split())
    assert "tells that the model was trained on unlearned texts (AUC" in said
    assert "Unlearning depth 0.00" in said and "Unlearning depth 1.00" in said
    page = (tmp_path / "knows" / "report" / "index.html").read_text()
    assert page.count("<svg") == 4
    for text in ("never knew", "logit lens", "12 unseen texts cannot show a false"):
        assert text in page


def test_one_model_alone(fields, tmp_path, capsys):
    """Without others there is no depth, and what is told is compared with chance."""
    results = go(fields | {"scores": "min_k,loss"}, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["lens"] == json.loads(json.dumps(results["lens"]))
    assert list(results["membership"]) == ["loss", "min_k"]
    assert not {"depth", "leakage"} & set(results)
    assert list(results["lens"]) == ["model"]
    out = capsys.readouterr().out
    assert re.search(r"loss, AUC +[01]\.\d+ +[01]\.\d+ to [01]\.\d+ +22", out)
    assert "score" in out and "0.5 tells" in " ".join(out.split())
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert page.count("<svg") == 3 and "with its own norm" in page


ON_DEVICES = """
from jax_surgery.runs import privacy
from settings_cases import settings_of

privacy.run(settings_of("privacy", {fields}), {folder!r})
"""


@pytest.mark.slow
def test_eight_devices_give_the_same_scores(fields, tmp_path):
    alone = go(fields, tmp_path / "alone")
    folder = str(tmp_path / "eight")
    on_devices.run(ON_DEVICES.format(fields=fields, folder=folder))
    shared = json.loads((tmp_path / "eight" / "results.json").read_text())
    for name, sides in alone["scores"]["model"].items():
        for side, values in sides.items():
            found = shared["scores"]["model"][name][side]
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
    for one, other in zip(alone["lens"]["model"], shared["lens"]["model"]):
        assert other["value"] == pytest.approx(one["value"], rel=1e-4)


def test_a_model_that_has_diverged_is_not_scored(tiny_model, fields, tmp_path):
    broken = jax.tree.map(lambda leaf: leaf * float("nan"), tiny_model.params)
    folder = str(tmp_path / "broken")
    hf_weights.save_model(broken, tiny_model.config, folder)
    tiny_model.tokenizer.save_pretrained(folder)
    for changes in ({"scores": "loss"}, {"data.holdout": ""}):
        with pytest.raises(ValueError, match="no finite number"):
            go(fields | {"model": folder} | changes, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_of_many_processes_one_writes(fields, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_lead", lambda: False)
    go(fields | {"data.holdout": ""}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"data.unlearn": ""}, ValueError, "config.data.unlearn is empty"),
        ({"data.unlearn": "no.jsonl"}, FileNotFoundError, "'no.jsonl' does not exist"),
        ({"scores": "min-k"}, ValueError, "names 'min-k', which is no score; choose"),
        ({"scores": "reference"}, ValueError, "compares with config.reference_model"),
        ({"min_k": 0.0}, ValueError, "config.min_k=0.0 must be a share"),
        ({"original_model": "x"}, ValueError, "needs config.reference_model too"),
        ({}, FileNotFoundError, "'/no/such/model' does not exist"),
    ],
)
def test_what_is_asked_is_checked_first(fields, tmp_path, changes, error, message):
    wrong = fields | {"model": "/no/such/model"} | changes
    with pytest.raises(error, match=message):
        go(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_text_cannot_be_unlearned_and_unseen(fields, tmp_path):
    with pytest.raises(ValueError, match="10 texts are in both unlearn and holdout"):
        go(fields | {"data.holdout": fields["data.unlearn"]}, tmp_path)


def told(auc, low, high, never=None, p=1.0) -> dict:
    entry = {"model": {"auc": {"value": auc, "interval": [low, high]}}}
    if never is not None:
        entry["reference_model"] = {"auc": {"value": never}}
        entry["excess"] = {"p_holm": p}
    return entry


def test_the_headline_is_of_the_score_that_is_furthest_from_nothing():
    say = report.membership_headline
    assert "does not tell" in say({"loss": told(0.55, 0.4, 0.7)})
    both = {"loss": told(0.55, 0.4, 0.7), "min_k": told(0.2, 0.1, 0.3)}
    assert "less likely than texts" in say(both) and "by min k" in say(both)
    # Far from 0.5, and no further than a model that never knew.
    assert "does not tell" in say({"loss": told(0.9, 0.85, 0.95, 0.9)})
    assert "was trained on" in say({"loss": told(0.9, 0.85, 0.95, 0.5, 0.001)})
