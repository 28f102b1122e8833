# SPDX-License-Identifier: Apache-2.0
"""The table of LLM Surgery has the authors' run beside the printed formula."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def paper_table(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "results")
    import paper_table

    return paper_table


def test_the_table_has_the_authors_run_beside_the_printed_formula(paper_table):
    found = paper_table.surgeries(5)
    assert [name for name in found if ":" in name][-1] == paper_table.AUTHORS
    printed, authors = found["paper: all three"], found[paper_table.AUTHORS]
    assert printed.data.stream_weights["unlearn"] == ()
    assert authors.data.stream_weights["unlearn"] == (0.1, 0.1)
    weights = lambda s: (s.objective.alpha, s.objective.beta, s.objective.gamma)
    assert (weights(printed), weights(authors)) == ((1, 1, 1), (1, 2, 0.5))
    directions = [s.objective.kl_direction for s in (printed, authors)]
    assert directions == ["model_to_reference", "reference_to_model"]
    located = authors.data.located
    assert located.unlearn == "0.1*embedded:problematic,0.1*embedded:obsolete"
    assert located.questions == printed.data.questions == "embedded"
    assert authors.data.retain == printed.data.retain
    assert {s.seed for s in found.values()} == {5}


def test_every_group_of_an_entry_has_a_column(paper_table):
    entry = {"accuracy": 0.5, "trained": {"accuracy": 0.4}, "unseen": {"accuracy": 0.6}}
    after = dict.fromkeys(paper_table.GROUPS, entry)
    entries = {
        paper_table.AUTHORS: [{"after": after, "cost": {"ratio": 7.0}, "seconds": 3}]
    }
    text = paper_table.table(entries, [0])
    row = next(line for line in text.splitlines() if paper_table.AUTHORS in line)
    assert row.count("|") == 12 and "| 40.0 | 60.0 |" in row and "| 7.0 | 3 |" in row
