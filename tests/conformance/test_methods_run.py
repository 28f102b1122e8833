# SPDX-License-Identifier: Apache-2.0
"""Methods by name through the whole program, one from outside the package among them."""

import json

import pytest
from settings_cases import plain_surgery

from jax_surgery.runs import surgery
from jax_surgery.train.loop import TrainingDiverged
from jax_surgery.train.metrics_file import read_metrics

STEPS = 3


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """Runs a surgery by a method; returns its metrics of each step."""
    folder = tmp_path_factory.mktemp("methods")
    asked = folder / "asked.jsonl"
    rows = [
        {"prompt": f"number {i} is", "answer": f" {i * 7 % 13}", "alternative": " none"}
        for i in range(4)
    ]
    del rows[0]["alternative"]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    retain = folder / "retain.jsonl"
    retain.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_model.texts))

    def of(number, **fields):
        settings = plain_surgery(
            model=tiny_model.folder,
            steps=STEPS,
            data={
                "unlearn": str(asked),
                "retain": str(retain),
                "rows_unlearn": 1,
                "rows_update": 0,
                "rows_retain": 1,
                "context": 48,
            },
            **fields,
        )
        directory = folder / str(number)
        surgery.run(settings, str(directory))
        assert (directory / "model" / "model.safetensors").exists()
        assert json.loads((directory / "results.json").read_text())["cost"]
        return read_metrics(directory / "metrics.jsonl")

    return of


@pytest.mark.slow
def test_a_run_that_diverges_is_told_what_fits_its_method(run):
    fits = (
        r"Lower config.optimizer.learning_rate, let the term level off sooner \(a larg"
    )
    with pytest.raises(TrainingDiverged, match=fits) as error:
        run("diverges", method="npo:beta=0.5", optimizer={"learning_rate": 1e30})
    assert "ascent" not in str(error.value)


@pytest.mark.slow
def test_a_cached_reference_gives_what_a_live_one_gives(run):
    live, cached = (
        run(reference, method="npo:beta=0.5", reference=reference)
        for reference in ("live", "cached")
    )
    # At the first step the model is its own reference: 2 / beta log 2.
    assert live[0]["unlearn_loss"] == pytest.approx(2.772589, rel=1e-5)
    assert live[-1]["unlearn_loss"] < live[0]["unlearn_loss"]
    for one, other in zip(live, cached, strict=True):
        # AdamW makes much of the last bit of gradients that are nearly 0.
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.slow
def test_pairs_say_which_refusals_stand_in(run, capfd):
    found = run("dpo", method="dpo")
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
    said = capfd.readouterr().out
    assert "1 of 4 records to unlearn name no alternative answer" in said


@pytest.mark.slow
def test_a_layer_is_steered_and_retained_text_may_be_plain_loss(run):
    found = run("rmu", method="rmu:layer=1")
    assert found[0]["retain_loss"] == pytest.approx(0, abs=1e-9)
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
    found = run("nll", method="simnpo", objective={"retain": "nll"})
    assert found[0]["retain_ce"] > 0 and "retain_kl" not in found[0]


def test_a_method_from_outside_the_package_runs_by_name(run):
    found = run("outside", method="test_methods.Outside:level=-9")
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
