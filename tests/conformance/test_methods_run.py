# SPDX-License-Identifier: Apache-2.0
"""Methods by name through the whole program, one from outside the package among them."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file
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
                "context": 64,
            },
            **fields,
        )
        directory = folder / str(number)
        surgery.run(settings, str(directory))
        assert json.loads((directory / "results.json").read_text())["cost"]
        return read_metrics(directory / "metrics.jsonl")

    def tensors(number=None):
        """Those of a run's model, or of the model before; one file holds them."""
        place = folder / str(number) / "model" if number else tiny_model.folder
        [file] = pathlib.Path(place).glob("*.safetensors")
        return load_file(file)

    of.tensors = tensors
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
        assert one["loss"] == pytest.approx(other["loss"], rel=3e-3)


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


@pytest.mark.slow
def test_a_task_vector_is_subtracted(run):
    rate = {"learning_rate": 1e-3}
    for scale in (1, 2):
        name = f"vector-{scale}"
        found = run(name, method=f"task_vector:scale={scale}", optimizer=rate)
        # The steps learn the text, of which no row is retained.
        assert found[-1]["unlearn_ce"] < found[0]["unlearn_ce"]
        assert not any("retain" in key for key in found[0])
    before, once, twice = (run.tensors(n) for n in (None, "vector-1", "vector-2"))
    assert before.keys() == once.keys()
    for name, start in before.items():
        change = once[name] - start
        np.testing.assert_allclose(twice[name] - start, 2 * change, atol=2e-6)
        assert np.abs(change).max() > 1e-4


@pytest.mark.slow
def test_loku_exports_one_model(run):
    found = run(
        "loku", method="loku:texts=2", lora={"rank": 2}, objective={"gamma": 0.0}
    )
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
    before, after = run.tensors(), run.tensors("loku")
    assert before.keys() == after.keys()
    moved = {n for n in before if not np.array_equal(before[n], after[n])}
    assert moved and all("proj" in name for name in moved)
    for name in moved:  # by a delta and its beginning, each of rank 2
        change = after[name] - before[name]
        size = np.linalg.svd(change.astype(np.float64), compute_uv=False)
        assert size[4:].max(initial=0) < 1e-3 * size[0], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "logged"),
    [
        ("pdu:epsilon=0.1", "retain_factor"),
        ("npo_sam", "retain_kl"),
        ("idkpo", "retain_kl"),
    ],
)
def test_a_rival_lowers_its_term(run, method, logged):
    found = run(method.partition(":")[0], method=method)
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
    assert logged in found[-1]


@pytest.mark.slow
def test_logits_of_a_cached_reference_are_those_of_a_live_one(run):
    live, cached = (
        run(f"undial-{how}", method="undial", reference=how)
        for how in ("live", "cached")
    )
    for one, other in zip(live, cached, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=3e-3)


def test_a_method_from_outside_the_package_runs_by_name(run):
    found = run("outside", method="test_methods.Outside:level=-9")
    assert found[-1]["unlearn_loss"] < found[0]["unlearn_loss"]
