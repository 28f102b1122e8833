# SPDX-License-Identifier: Apache-2.0
"""A workdir on gs:// gets every file of a run, and the local folder none."""

import json
import tempfile
import time

import pytest
from etils import epath
from settings_cases import config_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.parallel import distributed
from jax_surgery.runs import start
from jax_surgery.storage import bucket as buckets
from jax_surgery.storage import files, lock
from jax_surgery.storage.errors import StorageAway
from jax_surgery.train.metrics_file import MetricsWriter, read_metrics

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
def here(tmp_path, monkeypatch):
    """An empty folder, in which runs are started."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_metrics_that_cannot_be_written_do_not_hide_what_ended_the_run(
    bucket, cloud, tmp_path, monkeypatch
):
    monkeypatch.setattr(buckets, "PATIENCE", 0.5)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyError), MetricsWriter(f"{bucket}/run") as writer:
        writer.write(1, {"loss": 2.0})
        cloud.faults.down_until = time.time() + 60
        raise KeyError
    cloud.faults.down_until = 0
    with pytest.raises(StorageAway), MetricsWriter(f"{bucket}/run") as writer:
        cloud.faults.down_until = time.time() + 60
    cloud.faults.down_until = 0
    with MetricsWriter(f"{bucket}/run") as writer:
        writer.write(1, {"loss": 3.0})
    assert read_metrics(f"{bucket}/run/metrics.jsonl") == [{"step": 1, "loss": 3.0}]
    assert not list(tmp_path.glob("tmp*"))


@pytest.mark.slow
def test_pretraining_and_evaluation_write_to_the_bucket_alone(
    bucket, cloud, write_texts, here
):
    texts = [f"number {i} is {i * 7 % 13}" for i in range(12)]
    text, local = f"{bucket}/data/text.jsonl", write_texts("text", texts)
    files.copy(local, text)
    config = config_of("pretrain", PRETRAIN | {"data.train": text})
    cloud.faults.unavailable = 0.1
    start.start(config, f"{bucket}/run")
    assert {"config.json", "finished.json", "metrics.jsonl", "results.json"} <= set(
        files.names(f"{bucket}/run")
    )
    assert lock.LOCK not in files.names(f"{bucket}/run")
    model = f"{bucket}/run/model"
    assert "tokenizer.json" in files.names(model)
    tokenizer = hf_weights.load_tokenizer(model)
    assert tokenizer.decode(tokenizer.encode("number 3")).endswith("number 3")

    fields = {"model": model, "data.text": text, "data.questions": ""}
    start.start(config_of("evaluate", fields), f"{bucket}/evaluation")
    written = epath.Path(bucket) / "evaluation" / "results.json"
    assert json.loads(written.read_text())["text"][text]["tokens"] > 0
    assert not list(here.iterdir())
    with pytest.raises(ValueError, match="which is finished"):
        start.start(config, f"{bucket}/run")


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
