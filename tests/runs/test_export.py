# SPDX-License-Identifier: Apache-2.0
"""The export: JSONL and TFDS files have the contents of the embedded benchmark."""

import pathlib

import tensorflow_datasets as tfds

from configs import benchmark
from configs import export as configs_export
from jax_surgery.benchmarks import embedded
from jax_surgery.data import records
from jax_surgery.data.questions import read_questions
from jax_surgery.runs import export, start


def test_the_old_name_of_the_run_exports_too(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "run", lambda *arguments: called.append(arguments))
    called = []
    assert benchmark.get_config() == configs_export.get_config()
    for number, run in enumerate(("export", "benchmark")):
        start.start({"run": run}, str(tmp_path / str(number)))
        assert called[-1] == (export.ExportSettings(run), str(tmp_path / str(number)))


def test_the_files_hold_the_benchmark(tmp_path):
    counts = export.run(export.ExportSettings("export"), str(tmp_path))
    for name in embedded.SETS:
        path = tmp_path / "jsonl" / f"{name}.jsonl"
        read = [r.text for r in records.read_source(str(path))]
        assert tuple(read) == embedded.texts(name)
        assert counts[path.name] == len(read)
    questions = tuple(read_questions(str(tmp_path / "jsonl" / "questions.jsonl")))
    assert questions == embedded.questions()

    folder = pathlib.Path(tmp_path) / "tfds" / "embedded_world"
    texts = tfds.builder_from_directory(str(folder / "texts" / "1.0.0"))
    for name in embedded.SETS:
        assert texts.info.splits[name].num_examples == len(embedded.texts(name))
    asked = tfds.builder_from_directory(str(folder / "questions" / "1.0.0"))
    source = asked.as_data_source(split="general")
    known = {q.id: q for q in questions}
    assert len(source) == sum(q.group == "general" for q in questions)
    row = source[3]
    question = known[row["id"].decode()]
    assert row["prompt"].decode() == question.prompt
    assert tuple(o.decode() for o in row["options"]) == question.options
    assert row["answer"] == question.answer
