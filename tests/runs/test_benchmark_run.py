# SPDX-License-Identifier: Apache-2.0
"""The benchmark's files: JSONL and TFDS hold what the package holds."""

import pathlib

import tensorflow_datasets as tfds

from jax_surgery.benchmarks import embedded as benchmark
from jax_surgery.data import records
from jax_surgery.data.questions import read_questions
from jax_surgery.runs import export as benchmark_run
from jax_surgery.runs.settings import BenchmarkSettings


def test_the_files_hold_the_benchmark(tmp_path):
    counts = benchmark_run.run(BenchmarkSettings(), str(tmp_path))
    for name in benchmark.SETS:
        path = tmp_path / "jsonl" / f"{name}.jsonl"
        read = [r.text for r in records.read_source(str(path))]
        assert tuple(read) == benchmark.texts(name)
        assert counts[path.name] == len(read)
    questions = tuple(read_questions(str(tmp_path / "jsonl" / "questions.jsonl")))
    assert questions == benchmark.questions()

    folder = pathlib.Path(tmp_path) / "tfds" / "embedded_world"
    texts = tfds.builder_from_directory(str(folder / "texts" / "1.0.0"))
    for name in benchmark.SETS:
        assert texts.info.splits[name].num_examples == len(benchmark.texts(name))
    asked = tfds.builder_from_directory(str(folder / "questions" / "1.0.0"))
    source = asked.as_data_source(split="general")
    known = {q.id: q for q in questions}
    assert len(source) == sum(q.group == "general" for q in questions)
    row = source[3]
    question = known[row["id"].decode()]
    assert row["prompt"].decode() == question.prompt
    assert tuple(o.decode() for o in row["options"]) == question.options
    assert row["answer"] == question.answer
