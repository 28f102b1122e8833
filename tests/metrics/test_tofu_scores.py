# SPDX-License-Identifier: Apache-2.0
"""TOFU's scores: the published logs give the published values, and small ones by hand."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from jax_surgery.metrics.tofu import (
    Log,
    ModelIsItsOwnReference,
    read_log,
    scores,
    summary,
    write_log,
)
from jax_surgery.metrics.tofu.log import Table

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tofu_golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no ../shared/data/tofu_golden here"
)
ROWS = {"forget": 40, "retain": 30, "real_authors": 20, "world_facts": 25}


def table(rng, rows: int, loss: float = 1.0) -> Table:
    losses = rng.uniform(0.5, 1.5, (7, rows)) * loss
    shares = rng.uniform(0.2, 0.9, (3, rows))
    return Table(
        loss=losses[0],
        paraphrased_loss=losses[1],
        perturbed_loss=losses[2:].T,
        rouge_l=shares[0],
        exact_memorisation=shares[1],
        extraction_strength=shares[2],
        min_k=losses[0] * 2,
    )


def log_of(seed: int, loss: float = 1.0, forget: str = "forget05") -> Log:
    rng = np.random.default_rng(seed)
    tables = {split: table(rng, rows, loss) for split, rows in ROWS.items()}
    holdout = rng.uniform(1, 3, 50)
    tables["holdout"] = Table(loss=holdout, min_k=holdout)
    return Log(f"model {seed}", forget, tables)


@needs_golden
def test_the_authors_logs_give_the_published_values():
    full, retain = (
        read_log(GOLDEN / f"llama2-7b_{name}.json") for name in ("full", "retain90")
    )
    found = scores(full, retain)
    quality = found["forget_quality"]
    assert f"{quality['p']:.3e}" == "1.834e-21"
    assert f"{quality['statistic']:.4f}" == "0.3967"
    assert quality["log10_p"] == pytest.approx(math.log10(quality["p"]))
    assert (quality["n"], quality["n_retain"]) == (300, 300)
    utility, truth = found["model_utility"], found["forget"]["truth_ratio"]
    assert f"{utility['value']:.4f}" == "0.6227"
    assert f"{utility['reference']:.4f}" == "0.6137"
    assert f"{truth['value']:.4f}" == "0.5160"
    assert f"{truth['reference']:.4f}" == "0.6740"
    assert utility["n"] == 300 + 100 + 117 and truth["n"] == 300
    # Neither log says how likely each token is.
    assert "privacy_leakage" not in found
    assert "extraction_strength" not in found["forget"]


@needs_golden
def test_a_published_log_is_refused_as_its_own_reference():
    full = read_log(GOLDEN / "llama2-7b_full.json")
    with pytest.raises(
        ModelIsItsOwnReference, match=r"all 300 questions .* quality of 1"
    ):
        scores(full, full)


def test_scores_are_their_definitions():
    own, retain = log_of(0), log_of(1, 1.2)
    found = scores(own, retain)
    means = []
    for split in ROWS:
        rows = own.tables[split]
        probability = np.exp(-rows.loss)
        if split in ("real_authors", "world_facts"):
            wrong = np.exp(-rows.perturbed_loss).sum(1)
            probability = probability / (probability + wrong)
        # Of the paper: wrong answers' geometric mean over the paraphrase.
        wrong = np.prod(np.exp(-rows.perturbed_loss), 1) ** (1 / 5)
        ratio = wrong / np.exp(-rows.paraphrased_loss)
        truth = np.maximum(0, 1 - ratio)
        if split == "forget":
            truth = np.minimum(ratio, 1 / ratio)
        entry = found[split]
        assert entry["probability"]["value"] == pytest.approx(probability.mean())
        assert entry["truth_ratio"]["value"] == pytest.approx(truth.mean())
        assert entry["rouge_l"]["value"] == pytest.approx(rows.rouge_l.mean())
        assert entry["extraction_strength"]["n"] == len(rows)
        for score in entry.values():
            assert score["interval"][0] < score["value"] < score["interval"][1]
            assert score["reference"] is not None
        if split != "forget":
            means += [probability.mean(), rows.rouge_l.mean(), truth.mean()]
    utility = found["model_utility"]
    assert utility["value"] == pytest.approx(stats.hmean(means))
    assert utility["interval"][0] < utility["value"] < utility["interval"][1]
    ratios = [
        np.exp(log.tables["forget"].column("paraphrased_loss"))
        * np.exp(-log.tables["forget"].column("perturbed_loss").mean(1))
        for log in (own, retain)
    ]
    wanted = stats.ks_2samp(*ratios)
    assert found["forget_quality"]["p"] == pytest.approx(wanted.pvalue)
    assert found["forget_quality"]["statistic"] == wanted.statistic


def test_privacy_leakage_is_relative_to_the_retain_models_attack():
    own, retain = log_of(0), log_of(1, 1.2)

    def auc(log: Log) -> float:
        members, others = (log.tables[n].min_k for n in ("forget", "holdout"))
        return np.mean(others[:, None] > members)

    found = scores(own, retain)["privacy_leakage"]
    reference = 1 - auc(retain)
    assert found["value"] == pytest.approx(
        100 * ((1 - auc(own)) - reference) / reference
    )
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found["reference_is"] == "the retain log"
    alone = scores(own)["privacy_leakage"]
    assert alone["value"] == pytest.approx(100 * (0.5 - auc(own)) / 0.5)
    assert alone["reference_is"] == "chance"


def test_a_retain_log_that_tells_nothing_is_refused():
    own = log_of(0)
    # The same model, asked again in other batches.
    again = log_of(0)
    for name in ("paraphrased_loss", "perturbed_loss"):
        noise = 1 + 1e-5 * np.sin(np.arange(40))
        value = getattr(again.tables["forget"], name)
        value *= noise if value.ndim == 1 else noise[:, None]
    with pytest.raises(ModelIsItsOwnReference, match="the very model that is measured"):
        scores(own, again)
    with pytest.raises(
        ValueError, match="is of forget10 and the model was asked forget05"
    ):
        scores(own, log_of(1, forget="forget10"))


def test_models_far_apart_have_a_finite_logarithm():
    own, retain = log_of(0), log_of(1)
    for log, shift in ((own, 0.0), (retain, 900.0)):
        rng = np.random.default_rng(2)
        base = rng.uniform(0, 1, 700)
        wrong = base[:, None] + shift + rng.uniform(0, 0.1, (700, 5))
        log.tables["forget"] = Table(base, base, wrong, base)
    quality = scores(own, retain)["forget_quality"]
    assert quality["statistic"] == 1 and quality["p"] >= 0
    assert -310 < quality["log10_p"] < -300


def test_a_model_that_cannot_be_measured_is_an_error():
    log = log_of(0)
    log.tables["retain"].loss[:3] = np.nan
    with pytest.raises(ValueError, match="no number for 3 of 30 questions of retain"):
        scores(log)


def test_a_log_is_read_as_it_was_written(tmp_path):
    log = log_of(0)
    write_log(log, tmp_path / "log.json")
    read = read_log(tmp_path / "log.json")
    assert read.forget == "forget05"
    for split, rows in log.tables.items():
        for field in dataclasses.fields(Table):
            one, other = (getattr(t, field.name) for t in (rows, read.tables[split]))
            np.testing.assert_array_equal(one, other)
    assert scores(read) == scores(log)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: [1], "is no TOFU log"),
        (lambda raw: raw | {"tables": {}}, "lacks the split forget"),
        (
            lambda raw: raw | {"tables": {"forget": {"loss": [1.0]}}},
            "no paraphrased_loss for each question of forget",
        ),
        (lambda raw: {"eval_log.json": {}}, "is no TOFU log: 'eval_log_forget.json'"),
    ],
)
def test_what_is_no_log_is_named(tmp_path, change, message):
    file = tmp_path / "log.json"
    write_log(log_of(0), file)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=message):
        read_log(file)
    with pytest.raises(FileNotFoundError, match="there is no TOFU log"):
        read_log(tmp_path / "absent.json")
    file.write_text("{")
    with pytest.raises(ValueError, match="it is no JSON"):
        read_log(file)


def test_the_summary_says_what_is_lacking():
    lines = "\n".join(summary(scores(log_of(0))))
    assert "forget quality needs a retain log" in lines and "of chance" in lines
    lines = "\n".join(summary(scores(log_of(0), log_of(1))))
    assert "log10 p = " in lines and "retain model" in lines
