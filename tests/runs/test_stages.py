# SPDX-License-Identifier: Apache-2.0
"""Runs whose method has stages, and those that retain nothing."""

import json

import pytest
from settings_cases import plain_surgery, settings_of

from jax_surgery.benchmarks import suite
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.methods.stages import parse_stages
from jax_surgery.metrics import answer_accuracy
from jax_surgery.runs import surgery
from jax_surgery.train import devices

OPTIMISED = True  # see conftest

RETAINED = ("dict_b", "people_a", "capital")


def accuracy(model, task: str) -> float:
    """Of the answers' tokens but the end of the text."""
    found = tuple(records.read_source(f"suite:{task}"))
    probe = Probe(task, 128, records=found, ends=False)
    return answer_accuracy.METRIC(model, probe).value


def test_one_run_updates_by_descent_and_unlearns_by_subspaces(tmp_path):
    settings = settings_of(
        "surgery",
        {
            "model": "suite",
            "method": "surgery@update;subspace@unlearn",
            "data.unlearn": "suite:dict_a",
            "data.update": "suite:dict_c",
            "data.retain": ",".join(f"suite:{task}" for task in RETAINED),
            "data.rows_unlearn": 4,
            "data.rows_update": 6,
            "data.rows_retain": 8,
            "data.context": 128,
            "data.surprise": 0.0,
            "data.questions": "",
            "rounds.number": 40,
            "steps": 60,
            "objective.gamma": 20.0,
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 1e-3,
            "optimizer.first_layer": 0,
            "optimizer.matrices": "",
            "loop.evaluate_every": 0,
            "loop.checkpoint_every": 0,
        },
    )
    before = devices.load(str(suite.MODEL), settings.compute)
    assert accuracy(before, "dict_a") == 1 and accuracy(before, "dict_c") < 0.1
    results = surgery.run(settings, str(tmp_path))
    model = devices.load(str(tmp_path / "model"), settings.compute)
    assert accuracy(model, "dict_a") <= 0.1
    assert accuracy(model, "dict_c") >= 0.9
    assert min(accuracy(model, task) for task in RETAINED) >= 0.95
    # Each stage has its own folder, and the cost is that of the one that descends.
    steps = [tmp_path / "stages" / n for n in ("1", "2/stages/1")]
    lines = [(s / "metrics.jsonl").read_text().splitlines() for s in steps]
    assert len(lines[0]) == 60 and "task_norm" in lines[1][0]
    assert results["cost"]["trained_tokens"] == (6 + 8) * 60 * 128
    assert "ratio" not in results["cost"]


def test_stages_are_read():
    found = parse_stages(
        "subspace:guard=2,mend=0@unlearn ; npo:beta=0.2@unlearn+update"
    )
    assert [(s.method, s.roles) for s in found] == [
        ("subspace:guard=2,mend=0", ("unlearn",)),
        ("npo:beta=0.2", ("unlearn", "update")),
    ]
    assert found[0].direct.guard == 2 and found[1].direct is None
    [one] = parse_stages("surgery")
    assert one.roles == ("unlearn", "update")


@pytest.mark.parametrize(
    "method, words",
    [
        ("", "config.method is empty"),
        ("surgery@retain", "'retain' is no role that a method changes; use unlearn or"),
        ("subspace", "changes one role a stage; write subspace@unlearn"),
        ("subspace:gard=1@unlearn", "has no option 'gard'; did you mean 'guard'"),
        ("subspace@unlearn;sugery@update", "did you mean 'surgery'"),
    ],
)
def test_wrong_stages_say_what_is_right(method, words):
    with pytest.raises(ValueError, match=words):
        plain_surgery(method=method)


@pytest.fixture
def unlearn(tiny_model, write_texts):
    """A surgery that has text to unlearn and nothing else."""
    rows = {"data.rows_unlearn": 2, "data.rows_update": 0, "data.rows_retain": 0}
    return {
        "model": tiny_model.folder,
        "data.unlearn": write_texts("unlearn", tiny_model.texts[:4]),
        "data.update": "",
        "data.retain": "",
        "steps": 3,
        **rows,
    }


@pytest.mark.parametrize("updates", [False, True])
def test_gradient_ascent_runs_without_text_to_retain(
    unlearn, updates, tmp_path, tiny_model, write_texts
):
    """Pure ascent, and ascent with descent: an error advised the rows 0 it was given."""
    fields = dict(unlearn)
    if updates:
        fields["data.update"] = write_texts("update", tiny_model.texts[4:])
        fields["data.rows_update"] = 2
    results = surgery.run(plain_surgery(**fields), str(tmp_path / "run"))
    nll = {r: v["after"]["nll_per_token"] for r, v in results["roles"].items()}
    assert set(nll) == ({"unlearn", "update"} if updates else {"unlearn"})
    assert nll["unlearn"] > results["roles"]["unlearn"]["before"]["nll_per_token"]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"optimizer.name": "orthogonal"},
            "which config.optimizer.name=orthogonal would read: .*use config.optimizer",
        ),
        (
            {"data.surprise": 2.0},
            "which config.data.surprise=2 .*config.data.surprise=0",
        ),
    ],
)
def test_what_reads_retained_text_says_so(unlearn, fields, words, tmp_path):
    settings = plain_surgery(**unlearn, **fields)
    with pytest.raises(ValueError, match=words) as error:
        surgery.run(settings, str(tmp_path / "run"))
    assert "rows 0" not in str(error.value)


def test_a_cost_that_nothing_is_known_to_compare_with_has_no_ratio(unlearn, tmp_path):
    fields = unlearn | {"baseline_epochs": 0.0}
    surgery.run(plain_surgery(**fields), str(tmp_path / "run"))
    cost = json.loads((tmp_path / "run" / "results.json").read_text())["cost"]
    assert cost["surgery_flops"] > 0
    assert not {"ratio", "baseline_flops", "baseline_epochs"} & set(cost)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "<h2>Cost</h2>" in page and "naive" not in page


def test_the_embedded_worlds_alternative_is_known():
    from configs import pretrain
    from jax_surgery.benchmarks import embedded

    assert pretrain.get_config().data.epochs == embedded.EPOCHS
    assert settings_of("surgery").baseline_epochs == 0
