# SPDX-License-Identifier: Apache-2.0
"""Configs of published models: they load, and say what the table of their plans says."""

import importlib
import json
import math
import pathlib
import re

import pytest
from absl import flags
from ml_collections import config_flags

from configs import plan as plan_config
from jax_surgery.models.published import SIZES
from jax_surgery.plan import topologies
from jax_surgery.runs import settings

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for path in (ROOT / "configs" / "models").glob("*.py")
    if path.stem not in ("__init__", "base")
)


@pytest.fixture
def script(monkeypatch):
    """results/model_plans.py."""
    monkeypatch.syspath_prepend(ROOT / "results")
    return importlib.import_module("model_plans")


def table() -> dict[str, list[str]]:
    """The lines of results/model_plans.md by config."""
    text = (ROOT / "results" / "model_plans.md").read_text().partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    return {cells[0]: cells for cells in lines[2:]}


def module_of(path):
    return importlib.import_module(f"configs.models.{path.stem}")


def command(path) -> str:
    """The command of a config's docstring, in one line."""
    doc = module_of(path).__doc__
    return doc.partition("Command to run:\n")[2].replace("\\\n", " ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_loads_with_the_flags_of_its_command(path, monkeypatch):
    launched, _, run = command(path).partition(" -- ")
    module, arguments = module_of(path), run.split()
    assert launched.startswith(f"python -m launch run NAME --slice={module.SLICE} ")
    assert f"--config=configs/models/{path.name}" in arguments
    flag_values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=flag_values)
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=flag_values, lock_config=True
    )
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["main", *arguments])
    flag_values(["main", *arguments])
    built = settings.from_config(holder.value)
    assert isinstance(built, settings.settings_class("surgery"))
    assert built.model == module.MODEL
    assert built.data.retain == "gs://BUCKET/keep.jsonl,general"
    # Without text there is nothing to do, which must not pass unseen.
    bare = settings.from_config(module.get_config())
    assert bare.data.unlearn == bare.data.update == ""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_has_one_row_of_each_role_for_each_chip_of_its_slice(path):
    module = module_of(path)
    where = topologies.find(module.SLICE)
    built = settings.from_config(module.get_config())
    assert set(built.data.rows.values()) == {where.chips}
    asked = settings.from_config(plan_config.get_config(f"models/{path.stem}"))
    assert (asked.model, asked.topology) == (module.ARCHITECTURE, module.SLICE)
    assert asked.surgery == built
    assert built.data.context <= SIZES[module.ARCHITECTURE].max_positions


def test_docstrings_say_what_the_table_says(script):
    rows = table()
    assert list(rows) == [path.stem for path in CONFIGS] == script.names()
    for path in CONFIGS:
        lines = module_of(path).__doc__.splitlines()
        assert script.plan_line(rows[path.stem]) in lines
        slice_ = module_of(path).SLICE
        chips = topologies.find(slice_).chips
        assert f"Hardware: a TPU {slice_} ({chips} chip{'s'[: chips > 1]})." in lines


def test_no_config_needs_more_than_its_share_of_a_chip(script):
    for name, cells in table().items():
        of = dict(zip(script.HEADS, cells, strict=True))
        module = importlib.import_module(f"configs.models.{name}")
        assert of["model"] == module.ARCHITECTURE and of["slice"] == module.SLICE
        has = topologies.find(module.SLICE).hbm_bytes / topologies.GIB
        assert float(of["has"]) == pytest.approx(has, abs=0.005)
        assert 0 < float(of["needs GiB"]) <= script.MOST * has
        assert float(of["a step takes at least s"]) > 0


def test_large_slices_have_both_layouts_and_no_gradient_is_reduced_in_full(script):
    text = (ROOT / "results" / "model_plans.md").read_text().partition("\n## ")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    heads, found = rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    assert heads[:2] == ["config", "axes"]
    large = [
        path.stem
        for path in CONFIGS
        if topologies.find(module_of(path).SLICE).chips >= script.SPLIT
    ]
    assert large
    assert [(row["config"], row["axes"]) for row in found] == [
        (name, axes) for name in large for axes in ("one", "two")
    ]
    for one, two in zip(found[::2], found[1::2], strict=True):
        size = float(two["reduce-scatter"])
        assert float(two["all-reduce"]) < 0.05 * size
        assert float(one["all-reduce"]) > 0.9 * size
        assert math.isclose(float(one["all-gather GB"]), float(two["all-gather GB"]))


def test_a_plan_is_read_as_the_table_shows_it(script, tmp_path, monkeypatch):
    """A line of the table and of a docstring, from what a plan writes."""
    run = {"lora": {"rank": 16}, "data": {"context": 2048}}
    rows = {"unlearn": 4, "update": 4, "retain": 4, "shards": 4}
    found = {"settings": {"surgery": run}, "rows": rows, "needs": 2**31, "has": 2**32}
    found |= {"collectives": {"all-reduce": 3e9, "all-to-all": 1e9}}
    found |= {"speed": {"seconds_at_least": 1.234, "mfu_at_most": 0.5}}
    cells = script.row("llama2_7b_low_rank", json.loads(json.dumps(found)))
    of = dict(zip(script.HEADS, cells, strict=True))
    assert of["moves"] == "deltas of rank 16" and of["share"] == "50%"
    assert (of["all-reduce"], of["other"], of["MFU at most"]) == ("3.0", "1.0", "50%")
    line = script.plan_line(cells)
    assert re.fullmatch(
        r"Plan: 2\.00 of 4\.00 GiB per chip; .* at least 1\.23 s\.", line
    )
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    (tmp_path / "one.py").write_text('"""What.\n\nPlan: old.\n"""\n')
    script.write_line("one", line)
    assert (tmp_path / "one.py").read_text() == f'"""What.\n\n{line}\n"""\n'
