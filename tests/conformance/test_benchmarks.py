# SPDX-License-Identifier: Apache-2.0
"""Every benchmark of the table: schema, disjoint roles, metrics that are defined."""

import json
import pathlib
import typing

import paper_files
import pytest
from benchmark_files import options_of
from settings_cases import config_of, plain_surgery

from jax_surgery import benchmarks
from jax_surgery.benchmarks import BENCHMARKS
from jax_surgery.data import records
from jax_surgery.data.forms import normalised
from jax_surgery.data.groups import Role
from jax_surgery.metrics import COMPARISONS, METRICS
from jax_surgery.runs import start, surgery

CONTEXT = 256
# Options, of benchmarks that need any.
OPTIONS = {"suite": "targets=dict_a+reverse,added=rotate"}


def tofu_folder(folder: pathlib.Path) -> pathlib.Path:
    """A directory like TOFU's."""

    def write(name: str, letter: str, count: int) -> list[str]:
        rows = [
            json.dumps({"question": f"Who is {letter}{i}?", "answer": f"A {letter}."})
            for i in range(count)
        ]
        (folder / name).write_text("\n".join(rows) + "\n")
        return rows

    forget = write("forget05.jsonl", "A", 6)
    retain = write("retain95.jsonl", "B", 9)
    (folder / "full.jsonl").write_text("\n".join(forget + retain) + "\n")
    write("holdout05.jsonl", "C", 3)
    (folder / "idk.txt").write_text("No idea.\nI don't know.\n")
    return folder


@pytest.fixture(params=BENCHMARKS)
def benchmark(request, tmp_path):
    options = OPTIONS.get(request.param) or options_of(request.param, tmp_path)
    if request.param == "tofu":
        options = f"dir={tofu_folder(tmp_path)},retain_questions=4"
    if request.param == "paper":
        options = f"dir={paper_files.write(tmp_path)}"
    return benchmarks.parse(f"{request.param}:{options}")


def texts_of(read) -> set[str]:
    return {normalised(record.text) for record in read}


def test_groups_have_names_roles_and_text(benchmark):
    groups = benchmark.groups()
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)
    roles = {group.role for group in groups}
    assert {"unlearn", "retain"} <= roles <= set(typing.get_args(Role))
    for group in groups:
        assert records.read_role(group.data, group.name)
        assert 0 <= group.chance < 1


def test_no_two_roles_share_a_text(benchmark):
    by_role: dict[str, set[str]] = {}
    for group in benchmark.groups():
        found = texts_of(records.read_role(group.data, group.name))
        by_role.setdefault(group.role, set()).update(found)
    roles = list(by_role)
    for i, one in enumerate(roles):
        for other in roles[i + 1 :]:
            assert not by_role[one] & by_role[other], (one, other)


def test_probes_ask_by_metrics_that_are_defined(benchmark):
    probes = benchmark.probes(CONTEXT)
    assert len({probe.group for probe in probes}) == len(probes)
    assert {g.name for g in benchmark.groups() if g.role == "unlearn"} <= {
        probe.group for probe in probes
    }
    for probe in probes:
        assert probe.context == CONTEXT and probe.metrics
        assert probe.chance is None or 0 < probe.chance < 1
        for metric in map(METRICS.__getitem__, probe.metrics):
            asks = metric.protocol == "likelihood comparison"
            assert probe.questions if asks else probe.records
            if metric.protocol == "free generation":
                assert all(r.prompt or r.question for r in probe.records)
        assert set(probe.comparisons) <= set(COMPARISONS)
        assert len(probe.cases) in (0, len(probe.records))
        assert not probe.cases or len(probe.questions) in (0, len(probe.cases))


def test_what_an_attack_is_shown_is_not_what_it_is_asked(benchmark):
    target = benchmark.target(CONTEXT, 0)
    again = benchmark.target(CONTEXT, 0)
    assert [r.text for r in target.records] == [r.text for r in again.records]
    shown = texts_of(target.records)
    groups = {g.name: g for g in benchmark.groups() if g.role == "unlearn"}
    assert shown <= set().union(
        *(texts_of(records.read_role(g.data, g.name)) for g in groups.values())
    )
    assert {probe.group for probe in target.probes} == set(groups)
    for probe in target.probes:
        assert probe.metrics and set(probe.metrics) <= set(METRICS)
        assert not texts_of(probe.records) & shown
        for question in probe.questions:
            answer = question.prompt + question.options[question.answer]
            assert not any(normalised(answer) in text for text in shown)


def test_a_model_that_it_brings_can_be_loaded(benchmark):
    if benchmark.MODEL:
        assert (pathlib.Path(benchmark.MODEL) / "config.json").exists()
    names = [name for name, kind in BENCHMARKS.items() if kind is type(benchmark)]
    assert benchmarks.model_source(names[0]) == benchmark.MODEL or not benchmark.MODEL


def test_a_finished_run_stands_for_the_model_it_wrote(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert benchmarks.model_source(str(tmp_path / "run")) == str(tmp_path / "run")
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    found = benchmarks.model_source(str(tmp_path / "run"))
    assert found == str(tmp_path / "run" / "model")
    # Every run writes its own config.json into its workdir.
    (tmp_path / "run" / "config.json").write_text("{}")
    assert benchmarks.model_source(str(tmp_path / "run")) == found
    (tmp_path / "run" / "model.safetensors").write_text("")
    assert benchmarks.model_source(str(tmp_path / "run")) == str(tmp_path / "run")
    assert benchmarks.model_source("a/hub-name") == "a/hub-name"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("sweet", "config.benchmark='sweet' is not known"),
        ("suite:targets=adds", "suite task 'adds' does not exist"),
        ("suite:targets=rotate", "the model does not know 'rotate'"),
        ("suite:targets=add,added=add", "'add' is both removed and added"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        benchmarks.parse(spec)


def test_a_benchmark_from_outside_passes_through_the_program(tiny_model, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    spec = f"outside_plugins.Numbers:folder={files},limit=6"
    fields = {"model": tiny_model.folder, "benchmark": spec, "data.questions": ""}
    start.start(config_of("evaluate", fields), str(tmp_path / "evaluated"))
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert set(results["metrics"]) == {"unlearn", "retain"}
    found = results["metrics"]["unlearn"]["answer_accuracy"]
    assert 0 <= found["value"] <= 1 and found["n"] >= 6
    fields = {"model": tiny_model.folder, "benchmark": spec}
    fields |= {"attack": "relearning:steps=2,rows=2", "data.context": 32}
    start.start(config_of("attack", fields), str(tmp_path / "attacked"))
    results = json.loads((tmp_path / "attacked" / "results.json").read_text())
    assert results["shown"] == 3 and results["spent"]["steps"] == 2
    assert set(results["curve"][0]["groups"]) == {"unlearn"}


@pytest.mark.slow
def test_a_surgery_reads_and_asks_a_benchmark_from_outside(tiny_model, tmp_path):
    """Its groups are the text of roles without sources, and it is asked twice."""
    files = tmp_path / "files"
    files.mkdir()
    settings = plain_surgery(
        model=tiny_model.folder,
        benchmark=f"outside_plugins.Numbers:folder={files},limit=6",
        steps=2,
        data={
            **dict.fromkeys(("unlearn", "update", "retain"), ""),
            **dict.fromkeys(("rows_unlearn", "rows_retain"), 1),
            "rows_update": 0,
            "context": 32,
        },
    )
    surgery.run(settings, str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["roles"]) == {"unlearn", "retain"}
    assert results["settings"]["data"]["unlearn"] == str(files / "unlearn.jsonl")
    for when in ("before", "after"):
        assert set(results[when]) == {"unlearn", "retain"}
        entry = results[when]["unlearn"]
        low, high = entry["answer_accuracy_interval"]
        assert low <= entry["answer_accuracy"] <= high and entry["n"] >= 6
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "unlearn: answer accuracy" in page and "the number" in page
