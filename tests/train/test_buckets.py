# SPDX-License-Identifier: Apache-2.0
"""A workdir on gs:// gets every file of a run, and the local folder none."""

import json

import buckets
import pytest
from settings_cases import config_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.parallel import distributed
from jax_surgery.runs import start
from jax_surgery.train import loop
from jax_surgery.train.checkpoint import Checkpoints

PRETRAIN = {
    "new_model": {
        "vocab_size": 280,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
        "tokenizer_texts": "",
    },
    "data": {"rows": 1, "context": 32, "questions": "", "epochs": 1.0},
    "optimizer": {"warmup": 0},
    "loop": {"evaluate_every": 0},
}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The folder of gs://bucket; runs are started in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = buckets.serve(tmp_path, monkeypatch)

    def local(directory, keep):
        # Orbax reaches buckets through TensorStore, not through epath.
        return Checkpoints(str(directory).replace("gs://", f"{folder}/"), keep)

    monkeypatch.setattr(loop, "Checkpoints", local)
    return folder / "bucket"


def test_pretraining_and_evaluation_write_to_the_bucket_alone(
    served, write_texts, tmp_path
):
    text = write_texts("text", [f"number {i} is {i * 7 % 13}" for i in range(12)])
    config = config_of("pretrain", PRETRAIN | {"data.train": text})
    start.start(config, "gs://bucket/run")
    names = {path.name for path in (served / "run").iterdir()}
    assert {"config.json", "finished.json", "metrics.jsonl", "results.json"} <= names
    assert (served / "run" / "model" / "tokenizer.json").exists()
    tokenizer = hf_weights.load_tokenizer("gs://bucket/run/model")
    assert tokenizer.decode(tokenizer.encode("number 3")).endswith("number 3")

    fields = {"model": "gs://bucket/run/model", "data.text": text, "data.questions": ""}
    start.start(config_of("evaluate", fields), "gs://bucket/evaluation")
    results = json.loads((served / "evaluation" / "results.json").read_text())
    assert results["text"][text]["tokens"] > 0
    assert not list((tmp_path / "here").iterdir())


def test_other_processes_than_the_lead_write_no_tokenizer(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "is_lead", lambda: False)
    hf_weights.save_tokenizer(tiny_model.tokenizer, str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_runs_that_only_write_files_do_so_on_the_lead_process(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(start.distributed, "on_lead", lambda task: ran.append(task))
    monkeypatch.setattr(start.workdirs, "claim", lambda settings, workdir: tmp_path)
    start.start(config_of("export", {}), str(tmp_path / "export"))
    assert len(ran) == 1 and not (tmp_path / "jsonl").exists()
