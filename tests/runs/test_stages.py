# SPDX-License-Identifier: Apache-2.0
"""Runs whose method has stages."""

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


@pytest.mark.slow
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


def test_a_role_that_a_stage_changes_has_rows():
    fields = {"method": "subspace@unlearn", "data.rows_unlearn": 0}
    with pytest.raises(ValueError, match="config.data.rows_unlearn=0 leaves it out"):
        settings_of("surgery", fields)


def test_stages_are_read():
    found = parse_stages(
        "subspace:guard=2,mend=0@unlearn ; npo:beta=0.2@unlearn+update"
    )
    assert [(s.text, s.roles) for s in found] == [
        ("subspace:guard=2,mend=0", ("unlearn",)),
        ("npo:beta=0.2", ("unlearn", "update")),
    ]
    assert found[0].method.guard == 2 and found[1].method.beta == 0.2
    assert [s.descends for s in found] == [False, True]
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


def test_the_embedded_worlds_alternative_is_known():
    from configs import pretrain
    from jax_surgery.benchmarks import embedded

    assert pretrain.get_config().data.epochs == embedded.EPOCHS
    assert settings_of("surgery").baseline_epochs == 0
