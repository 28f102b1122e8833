# SPDX-License-Identifier: Apache-2.0
"""The search of rates: the same for every method, and what it chooses."""

import json
import pathlib

import pytest

from jax_surgery.methods import METHODS

ROOT = pathlib.Path(__file__).parents[1]
BEFORE = {"obsolete": 100, "problematic": 100, "update": 25, "retain": 100.0}
BEFORE |= {"general": 90.0}


@pytest.fixture
def scripts(monkeypatch):
    """The folder results/ as its scripts see it."""
    monkeypatch.syspath_prepend(ROOT / "results")
    import rivals_cases
    import rivals_table

    return rivals_cases, rivals_table


def one(rate, obsolete, update, retain, general=90.0):
    after = {"obsolete": obsolete, "problematic": 25.0, "update": update}
    after |= {"retain": retain, "general": general}
    return {"rate": rate, "steps": 3, "before": BEFORE, "after": after, "ratio": 20.0}


def test_every_method_of_descent_has_as_many_rates_as_ours(scripts, tmp_path):
    cases, _ = scripts
    found = cases.entries(tmp_path / "pairs.jsonl", 256)
    rivals = set(METHODS) - set(cases.LEFT_OUT)
    assert set(found) == rivals | {"configs/surgery.py", "configs/robust.py"}
    assert {len(entry.rates(5)) for entry in found.values()} == {5}
    for name in rivals - {"loku"}:
        assert found[name].rates(5)[0] == pytest.approx(5e-5 * 8)
        # Twice as wide, half the rate.
        wide = cases.entries(tmp_path / "pairs.jsonl", 512)[name]
        assert found[name].rates(5)[1:] == pytest.approx(wide.rates(4))
    for entry in found.values():
        settings = entry.settings(entry.rates(2)[1], 7, 4)
        assert (settings.steps, settings.seed) == (7, 4)
        assert settings.optimizer.learning_rate == entry.largest / 2
        assert sum(settings.data.rows.values()) in (11, 13)
    assert found["ceu"].settings(1e-4, 1, 0).objective.gamma == 0
    assert found["npo"].settings(1e-4, 1, 0).objective.retain == "nll"


def test_pairs_have_a_value_that_is_not_true(scripts, tmp_path):
    cases, _ = scripts
    file = tmp_path / "pairs.jsonl"
    cases.write_pairs(file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) > 10_000
    assert all(row["answer"] != row["alternative"] for row in rows)
    person = cases.world.people()["obsolete"][0]
    new = cases.world.people()["update"][0].facts.values()
    own = [row for row in rows if person.name in row["prompt"]]
    assert {r["answer"] for r in own} <= {f" {v}." for v in person.facts.values()}
    assert not {r["alternative"] for r in own} & {f" {v}." for v in new}


def test_the_rate_is_chosen_that_forgets_among_those_that_keep(scripts):
    _, table = scripts
    forgets = one(4, obsolete=30.0, update=90.0, retain=98.5)
    breaks = one(8, obsolete=25.0, update=100.0, retain=97.0)
    knows = one(2, obsolete=95.0, update=40.0, retain=99.9)
    diverged = {"rate": 16, "steps": 3, "diverged": "NaN"}
    assert table.chosen([diverged, breaks, forgets, knows]) is forgets
    # What is avoided is as far from chance as what is known.
    avoids = one(6, obsolete=0.0, update=90.0, retain=98.5)
    assert table.chosen([avoids, forgets]) is forgets
    worse = one(9, obsolete=25.0, update=100.0, retain=60.0)
    assert table.chosen([worse, breaks]) is breaks
    assert table.chosen([diverged]) is None


def test_a_workdir_has_one_budget(scripts, tmp_path):
    _, table = scripts
    table.Cases(tmp_path, 5, 20.0)
    table.Cases(tmp_path, 5, 20.0)
    with pytest.raises(SystemExit, match="another budget than --rates=4 --share=20"):
        table.Cases(tmp_path, 4, 20.0)


def test_the_table_says_the_budget_and_what_it_could_not_keep(scripts, tmp_path):
    cases, table = scripts
    every = cases.entries(tmp_path / "pairs.jsonl", 256)
    npo, wga = every["npo"], every["wga"]
    rate = npo.rates(3)[1]
    kept, lost = one(rate, 30.0, 90.0, 99.0), one(wga.rates(3)[0], 30.0, 90.0, 80.0)
    found = {"npo": (npo, kept, [kept, kept]), "wga": (wga, lost, [lost, lost])}
    text = table.table(found, table.Cases(tmp_path, 3, 20.0), [1, 2])
    assert "3 rates, and for each 1/20 of the FLOPs" in text
    assert f"| `npo` | {rate:.2g} | 3 | 30.0 ± 0.0 |" in text
    assert "0.0004, at the edge, none keeps 98 %" in text
    table.picture(found, tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 5000
