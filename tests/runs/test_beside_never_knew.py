# SPDX-License-Identifier: Apache-2.0
"""The model beside which attacks are read: a log, or one that is trained; and what an
attack run shows on its way."""

import json
import re

import pytest
from settings_cases import settings_of

from jax_surgery.report import writer
from jax_surgery.runs import attack


@pytest.fixture
def fields(tiny_model, tmp_path) -> dict:
    def write(name: str, numbers) -> str:
        rows = [
            {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"}
            for i in numbers
        ]
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return {
        "model": tiny_model.folder,
        "benchmark": "",
        "attack": "blocks:parts=layer",
        "measure_at": "1",
        "data.relearn": write("removed.jsonl", range(8)),
        "data.retained": write("retained.jsonl", range(8, 32)),
        "data.context": 32,
        "never_knew.epochs": 2.0,
        "never_knew.rows": 2,
    }


@pytest.fixture
def never_knew(tiny_model, tmp_path) -> str:
    """The same model by another name."""
    folder = tmp_path / "another"
    folder.symlink_to(tiny_model.folder)
    return str(folder)


def run(fields: dict, folder, **changes) -> dict:
    return attack.run(settings_of("attack", fields | changes), str(folder))


def test_the_log_of_an_attack_takes_the_place_of_its_model(
    fields, never_knew, tmp_path
):
    log = tmp_path / "log"
    grid = "blocks:parts=layer; quantisation:formats=int4"
    first = run(fields, log, model=never_knew, attack=grid)
    found = run(fields, tmp_path / "run", reference_model=str(log))
    assert found["reference_model"] == never_knew
    [one] = found["attacks"]
    own = json.loads(json.dumps(first["attacks"][0]["curve"]))
    assert one["reference_curve"] == own
    assert all(row["above"] == 0 and not row["by_chance"] for row in found["excess"])
    # The file itself; and a log with a model that never knew, which is taken then.
    file = str(tmp_path / "run" / "results.json")
    again = run(fields, tmp_path / "again", reference_model=file)
    assert again["attacks"] == found["attacks"]
    for changes, message in (
        ({"seed": 1}, "was made with config.seed=0, and this run has 1"),
        ({"attack": "exits"}, "has no attack 'exits'"),
        ({"model": never_knew}, "is the log of .*another' itself"),
    ):
        with pytest.raises(ValueError, match=message):
            run(fields, tmp_path / "no", reference_model=str(log), **changes)


def test_what_teaches_the_answers_is_compared_or_not_tried(
    fields, never_knew, tmp_path
):
    fields["attack"] = "relearning:on=all,steps=1,rows=2"
    with pytest.raises(
        ValueError, match="it needs one that never knew to compare with"
    ):
        run(fields, tmp_path / "run")
    found = run(fields, tmp_path / "run", reference_model=never_knew)
    assert len(found["attacks"]) == 1
    found = run(fields, tmp_path / "set", attack="standard; exits")
    assert [one["attack"] for one in found["attacks"]] == ["exits"]
    assert "teaches what is asked" in found["left_out"][0]


def test_a_model_is_not_trained_without_text(fields, tmp_path):
    changes = {"reference_model": "train", "data.retained": ""}
    with pytest.raises(ValueError, match="needs the text .*config.data.retained"):
        run(fields, tmp_path, **changes)
    with pytest.raises(
        ValueError, match="config.never_knew.epochs=0.0 must be positive"
    ):
        settings_of("attack", fields | {"never_knew.epochs": 0.0})


@pytest.mark.slow
def test_one_that_never_knew_is_trained_once(fields, tmp_path, capsys):
    fields["metrics"] = "nats_per_token"
    found = run(fields, tmp_path / "run", reference_model="train")
    assert found["reference_model"] == str(tmp_path / "run" / "never_knew" / "model")
    [one] = found["attacks"]
    assert one["curve"][0] != one["reference_curve"][0]
    assert "pretraining" in capsys.readouterr().out
    again = run(fields, tmp_path / "run", reference_model="train")
    assert again["attacks"] == found["attacks"]
    assert "pretraining" not in capsys.readouterr().out
    # It begins with another model where one is named.
    begun = {"never_knew.start": fields["model"], "never_knew.learning_rate": 1e-9}
    other = run(fields, tmp_path / "other", reference_model="train", **begun)
    [one] = other["attacks"]
    values = [
        one[key][0]["groups"]["relearn"]["nats_per_token"]["value"]
        for key in ("curve", "reference_curve")
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_of_a_finished_run_the_model_before_is_known(fields, tiny_model, tmp_path):
    workdir = tmp_path / "finished"
    workdir.mkdir()
    (workdir / "model").symlink_to(tiny_model.folder)
    changes = {"model": str(workdir), "attack": "way_back:shares=0.5"}
    with pytest.raises(ValueError, match="way_back needs the model before"):
        run(fields, tmp_path / "run", **changes)
    (workdir / "config.json").write_text(json.dumps({"model": tiny_model.folder}))
    found = run(fields, tmp_path / "run", **changes)
    before, half = found["curve"]
    assert half["label"] == "50% of the way to the model before"
    assert half["groups"] == before["groups"]  # it is the same model


def test_attacks_of_a_set_that_lack_something_are_left_out_and_named(
    fields, tmp_path, monkeypatch
):
    short = {"few": "blocks:parts=layer;way_back;relearning:on=related"}
    monkeypatch.setattr(attack.attacks, "SETS", short)
    pages, write_page = [], writer.write_page
    monkeypatch.setattr(
        writer, "write_page", lambda *of: pages.append(write_page(*of).read_text())
    )
    grid = "few; relearning:on=retained,steps=1,rows=2,seed=0+1"
    found = run(fields, tmp_path / "run", attack=grid)
    assert [one["attack"] for one in found["attacks"]] == [
        "blocks:parts=layer",
        *(f"relearning:on=retained,steps=1,rows=2,seed={seed}" for seed in (0, 1)),
    ]
    assert len(found["left_out"]) == 2
    assert all(said.startswith("Not tried: ") for said in found["left_out"])
    # The page is there after each attack.
    at = [re.search(r"written after the attack (\S+),", html) for html in pages]
    assert [one and one[1] for one in at[:-1]] == [
        one["attack"] for one in found["attacks"][:-1]
    ]
    assert at[-1] is None and "Not tried" in pages[-1] and "highest of 2" in pages[-1]
