# SPDX-License-Identifier: Apache-2.0
"""Runs that retain nothing: ascent alone, or with what is learned instead."""

import json

import pytest
from quick_cases import few_of
from settings_cases import plain_surgery

from jax_surgery.runs import surgery


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


@pytest.mark.parametrize("updates", few_of([False, True], [False]))
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
