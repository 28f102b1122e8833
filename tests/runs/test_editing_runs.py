# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of editing and unlearning through the runs that ask them."""

import json
import typing

import benchmark_files as made
import pytest
from settings_cases import plain_surgery, settings_of

from jax_surgery.metrics import COMPARISONS, METRICS
from jax_surgery.metrics.base import Protocol
from jax_surgery.runs import evaluate, surgery

TOKENS = {"token_accuracy"}
COMPARED = {"likelihood_success", "likelihood_magnitude"} | TOKENS
UNCHANGED = {"unchanged_tokens"}
# What each asks, by group.
ASKED = {
    "counterfact": {
        "old": TOKENS,
        "efficacy": COMPARED,
        "paraphrase": COMPARED,
        "neighbourhood": COMPARED | UNCHANGED,
    },
    "zsre": {
        "old": TOKENS,
        "efficacy": TOKENS,
        "paraphrase": TOKENS,
        "locality": TOKENS | UNCHANGED,
    },
    "knowedit": {
        "old": TOKENS,
        "edit_success": TOKENS,
        "paraphrase": TOKENS,
        "portability": TOKENS,
        "locality": TOKENS | UNCHANGED,
    },
    "muse": {
        "forget": {"verbmem"},
        "forget_qa": {"knowmem"},
        "retain_qa": {"knowmem"},
        "privleak": {"min_k_auc", "privleak"},
    },
    "wmdp": {"bio": {"multiple_choice"}, "cyber": {"multiple_choice"}},
}


def evaluated(tiny_model, tmp_path, name: str, **fields):
    given = {
        "model": tiny_model.folder,
        "reference_model": tiny_model.folder if name != "wmdp" else "",
        "benchmark": f"{name}:{made.options_of(name, tmp_path)}",
        "data.questions": "",
    }
    settings = settings_of("evaluate", given | fields)
    (tmp_path / "run").mkdir()
    return evaluate.run(settings, str(tmp_path / "run"))


@pytest.mark.parametrize("name", ASKED)
def test_an_evaluation_names_every_protocol(tiny_model, tmp_path, capsys, name):
    evaluated(tiny_model, tmp_path, name)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {group: set(found) for group, found in results["metrics"].items()} == ASKED[
        name
    ]
    printed = capsys.readouterr().out
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    for group, found in results["metrics"].items():
        for metric, entry in found.items():
            of = METRICS.get(metric) or COMPARISONS[metric]
            assert entry["protocol"] == of.protocol in typing.get_args(Protocol)
            low, high = entry["interval"]
            assert low <= entry["value"] <= high and entry["n"] > 0
            assert f"{group}: {metric} " in printed
            assert f"{group}: {metric.replace('_', ' ')} ({of.protocol})" in page
    # The model beside itself.
    beside = results["metrics"].get("neighbourhood") or results["metrics"].get(
        "locality"
    )
    if beside:
        assert beside["unchanged_tokens"]["value"] == 1
    assert results["group_roles"].get("efficacy", "update") == "update"


def test_what_compares_is_said_to_be_left_out_without_another_model(
    tiny_model, tmp_path, capsys
):
    results = evaluated(tiny_model, tmp_path, "zsre", reference_model="")
    assert set(results["metrics"]["locality"]) == {"token_accuracy"}
    assert (
        "unchanged_tokens: not measured, since they compare" in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="nothing that is asked compares"):
        evaluated(tiny_model, tmp_path / "w", "wmdp", reference_model=tiny_model.folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counterfact", "knowedit"])
def test_a_surgery_edits_what_a_benchmark_says(tiny_model, tmp_path, name):
    roles = dict.fromkeys(("unlearn", "update", "retain"), "")
    rows = dict.fromkeys(("rows_unlearn", "rows_update", "rows_retain"), 1)
    settings = plain_surgery(
        model=tiny_model.folder,
        benchmark=f"{name}:{made.options_of(name, tmp_path)}",
        steps=30,
        data=roles | rows | {"context": 64},
    )
    surgery.run(settings, str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["before"]) == set(results["after"]) == set(ASKED[name])
    edited = "efficacy" if name == "counterfact" else "edit_success"
    before, after = results["before"], results["after"]
    assert after[edited]["token_accuracy"] > before[edited]["token_accuracy"]
    assert after[edited]["token_accuracy_protocol"] == "teacher-forced token accuracy"
    near = "neighbourhood" if name == "counterfact" else "locality"
    assert before[near]["unchanged_tokens"] == 1 > after[near]["unchanged_tokens"]
    roles = results["group_roles"]
    assert (roles[edited], roles["old"], roles[near]) == ("update", "unlearn", "retain")
