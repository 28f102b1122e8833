# SPDX-License-Identifier: Apache-2.0
"""The attack run: halves of a user's records, a finished run, a model that never knew."""

import json
import re

import pytest
from settings_cases import settings_of

from jax_surgery.parallel import distributed
from jax_surgery.runs import attack


@pytest.fixture
def fields(tiny_model, tmp_path) -> dict:
    rows = [
        {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"} for i in range(12)
    ]
    file = tmp_path / "removed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": tiny_model.folder,
        "benchmark": "",
        "attack": "relearning:learning_rate=3e-3,steps=4,rows=2",
        "measure_at": "2",
        "data.relearn": str(file),
        "data.context": 32,
    }


def test_the_whole_run(fields, tiny_model, tmp_path, capsys):
    """The workdir of a finished run stands for the model in it."""
    workdir = tmp_path / "finished"
    workdir.mkdir()
    (workdir / "model").symlink_to(tiny_model.folder)
    fields |= {"model": str(workdir), "reference_model": tiny_model.folder}
    results = attack.run(settings_of("attack", fields), str(tmp_path))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["curve"] == json.loads(json.dumps(results["curve"]))
    assert written["settings"]["attack"] == fields["attack"]
    assert results["shown"] == 6
    assert [point["steps"] for point in results["curve"]] == [0, 2, 4]
    for points in (results["curve"], results["reference_curve"]):
        entry = points[-1]["groups"]["relearn"]["answer_accuracy"]
        low, high = entry["interval"]
        assert 0 <= low <= entry["value"] <= high <= 1
    # It is the very same model.
    assert results["curve"] == results["reference_curve"]
    assert results["spent"] == {k: results["curve"][-1][k] for k in results["spent"]}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "how answer accuracy comes back" in page and "never knew" in page
    assert "4 steps" in page and "Cost against" not in page
    assert re.search(
        r"relearn: answer accuracy \(.*?\), of the model, relearning\S+, \d steps +0\.",
        capsys.readouterr().out,
    )


def test_several_attacks_have_one_verdict(fields, tiny_model, tmp_path, capsys):
    specs = ["relearning:steps=2,rows=2", "blocks:parts=layer", "quantisation"]
    fields |= {"attack": "; ".join(specs), "model": tiny_model.folder}
    fields |= {"reference_model": tiny_model.folder}
    results = attack.run(settings_of("attack", fields), str(tmp_path))
    assert [one["attack"] for one in results["attacks"]] == specs
    assert results["curve"] == results["attacks"][0]["curve"]
    tries = 2 * (len(results["attacks"][0]["curve"]) - 1)  # not all are at a step
    found = results["verdict"]
    others = sum(len(one["curve"]) - 1 for one in results["attacks"][1:])
    assert others < found["tries"] <= others + tries
    # A model is not above itself.
    assert found["verdict"] == "removed"
    assert all(worst["above"] == 0 for worst in found["worst"].values())
    said = capsys.readouterr().out
    assert "What was to go is removed: none of" in said
    page = (tmp_path / "report" / "index.html").read_text()
    assert "layer 1 without both" in page and "in nf4" in page
    with pytest.raises(ValueError, match="config.attack='' names no attack"):
        settings_of("attack", fields | {"attack": ""})


def test_held_out_text_is_asked_where_it_is_given(fields, tmp_path):
    fields["data.held_out"] = fields["data.relearn"]
    fields["metrics"] = "nats_per_token"
    other = tmp_path / "asked.jsonl"
    other.write_text('{"text": "the number 3 is the number 5"}\n')
    results = attack.run(
        settings_of("attack", fields | {"data.held_out": str(other)}), str(tmp_path)
    )
    assert results["shown"] == 12
    found = results["curve"][0]["groups"]["relearn"]
    assert set(found) == {"nats_per_token"}
    # The same sources as both: half of them is held out.
    results = attack.run(settings_of("attack", fields), str(tmp_path))
    assert results["shown"] == 6


def test_a_budget_ends_it(fields, tmp_path):
    settings = settings_of("attack", fields | {"budget.steps": 3})
    results = attack.run(settings, str(tmp_path))
    assert [point["steps"] for point in results["curve"]] == [0, 2, 3]


def test_of_many_processes_one_writes(fields, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_lead", lambda: False)
    attack.run(settings_of("attack", fields), str(tmp_path))
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"benchmark": "suite"}, ValueError, "give one of the two"),
        ({"data.relearn": ""}, ValueError, "give one of the two"),
        ({"measure_at": "2;3"}, ValueError, "config.measure_at='2;3' must be whole"),
        ({"attack": "relearn"}, ValueError, "did you mean 'relearning'"),
        ({"metrics": "rouge"}, ValueError, "did you mean 'rouge_l'"),
        ({"data.relearn": "no.jsonl"}, FileNotFoundError, "'no.jsonl' does not exist"),
        ({}, FileNotFoundError, "'/no/such/model' does not exist"),
    ],
)
def test_what_is_attacked_is_checked_first(fields, tmp_path, changes, error, message):
    wrong = fields | {"model": "/no/such/model"} | changes
    with pytest.raises(error, match=message):
        attack.run(settings_of("attack", wrong), str(tmp_path))
    assert not (tmp_path / "results.json").exists()


def test_what_the_adversary_has_is_no_question(fields):
    with pytest.warns(
        UserWarning, match="12 texts that are asked .*removed.jsonl:1 = "
    ):
        attack.target_for(
            settings_of(
                "attack", fields | {"data.held_out": fields["data.relearn"] + ","}
            )
        )
