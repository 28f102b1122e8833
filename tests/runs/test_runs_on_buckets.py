# SPDX-License-Identifier: Apache-2.0
"""Every run ends on gs://, from models and data on gs://; one is killed and goes on."""

import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import on_devices
import pytest
import subspace_run_cases
from etils import epath
from plain_settings import plain_optimizer
from settings_cases import PLAIN, config_of, merged, nested

from jax_surgery.benchmarks import suite
from jax_surgery.methods.subspace.work import Work
from jax_surgery.runs import start
from jax_surgery.storage import files, lock

TAKES_MINUTES = True  # by few tests; see conftest
pytestmark = pytest.mark.slow
REPORT = {"results.json", "report", "finished.json"}
STEPS, KILLS = 12, 2  # of a run that is killed, which saves every other step


@pytest.fixture
def moved(bucket, tiny_model, tmp_path, monkeypatch) -> Callable[[str, list], str]:
    """Writes rows to a file in the bucket, where the tiny model lies too."""
    monkeypatch.chdir(tmp_path)
    for file in files.children(tiny_model.folder):
        files.copy(file, f"{bucket}/tiny/{file.name}")

    def write(name: str, rows: list) -> str:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_text(f"{bucket}/data/{name}", lines)
        return f"{bucket}/data/{name}"

    return write


def left_by(config, workdir: str) -> set[str]:
    """The names that a run leaves in its workdir."""
    start.start(config, workdir)
    return set(files.names(workdir))


def surgery_fields(bucket, moved, texts, **further) -> dict:
    data = {
        "unlearn": moved("unlearn.jsonl", [{"text": t} for t in texts[:3]]),
        "update": moved("update.jsonl", [{"text": f"{t} or so"} for t in texts[:3]]),
        "retain": moved("retain.jsonl", [{"text": t} for t in texts[3:]]),
        "rows_unlearn": 1,
        "rows_update": 1,
        "rows_retain": 2,
    }
    own = {"model": f"{bucket}/tiny", "data": data, "steps": 4} | further
    return merged(PLAIN, nested(own))


def test_surgery_then_attack(bucket, moved, tiny_model, tmp_path):
    fields = surgery_fields(bucket, moved, tiny_model.texts)
    fields["optimizer"] = merged(fields["optimizer"], {"matrices": ""})
    fields["loop"]["checkpoint_every"] = 2
    left = left_by(config_of("surgery", fields), f"{bucket}/surgery")
    assert REPORT | {"model", "checkpoints", "metrics.jsonl"} <= left
    rows = [{"prompt": f"the number {i} is", "answer": f" {i}"} for i in range(8)]
    fields = {
        "model": f"{bucket}/surgery",
        "reference_model": f"{bucket}/tiny",
        "benchmark": "",
        "attack": "relearning:learning_rate=3e-3,steps=2,rows=2",
        "measure_at": "1",
        "data.relearn": moved("removed.jsonl", rows),
        "data.context": 32,
    }
    assert left_by(config_of("attack", fields), f"{bucket}/attack") >= REPORT
    assert [path.name for path in tmp_path.iterdir()] == []


def test_unlearn_then_edit_files(bucket, moved, tmp_path, monkeypatch):
    monkeypatch.setattr(Work, "RECORDS", 20)
    for file in files.children(suite.MODEL):
        files.copy(file, f"{bucket}/suite/{file.name}")
    groups = [
        {
            "name": name,
            "family": family,
            "data": moved(f"{name}.jsonl", list(suite.load(name))),
        }
        for name, family in subspace_run_cases.FAMILIES.items()
    ]
    common = {
        "model": f"{bucket}/suite",
        "tasks.source": moved("tasks.jsonl", groups),
        "rounds.number": subspace_run_cases.ROUNDS,
        **subspace_run_cases.NO_REPORT,
    }
    config = config_of("unlearn", common | {"tasks.targets": "dict_a"})
    left = left_by(config, f"{bucket}/unlearn")
    assert REPORT | {"model", "edit.safetensors"} <= left
    assert "statistics" in files.names(f"{bucket}/unlearn/stages/1")
    config = config_of("learn", common | {"tasks.targets": "dict_c"})
    assert REPORT | {"model", "edit.safetensors"} <= left_by(config, f"{bucket}/learn")
    edit = f"{bucket}/unlearn/edit.safetensors"
    config = config_of(
        "edit", {"action": "apply", "edits": edit, "model": f"{bucket}/suite"}
    )
    assert {"model", "rollback.safetensors"} <= left_by(config, f"{bucket}/applied")
    fields = {
        "action": "rollback",
        "edits": f"{bucket}/applied/rollback.safetensors",
        "model": f"{bucket}/applied/model",
    }
    left_by(config_of("edit", fields), f"{bucket}/undone")
    for name in files.names(suite.MODEL):
        if name.endswith(".safetensors"):
            undone = epath.Path(f"{bucket}/undone/model/{name}").read_bytes()
            assert undone == (epath.Path(suite.MODEL) / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == []


def test_tofu(bucket, moved, tmp_path):
    def facts(start_at: int, count: int) -> list[dict]:
        numbers = range(start_at, start_at + count)
        return [{"question": f"Who is A{i}?", "answer": f"A{i}."} for i in numbers]

    moved("forget05.jsonl", facts(0, 4))
    moved("retain95.jsonl", facts(4, 6))
    moved("holdout05.jsonl", facts(20, 3))
    moved("full.jsonl", facts(0, 10))
    files.write_text(f"{bucket}/data/idk.txt", "I don't know.\nNo idea.\n")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers")
    model = dict(zip(sizes, (400, 16, 32, 2), strict=True))
    rows = dict.fromkeys(("rows_unlearn", "rows_update", "rows_retain"), 1)
    fields = {
        "data": {"dir": f"{bucket}/data", "retain_questions": 3, "scores": False},
        "fit.new_model": model | {"num_heads": 2, "num_kv_heads": 1},
        "fit.data": {"rows": 4, "context": 64, "epochs": 2.0},
        "fit.optimizer": {"learning_rate": 1e-2, "warmup": 0},
        "surgery": merged(PLAIN, {"data": rows | {"context": 64}, "steps": 3}),
    }
    left = left_by(config_of("tofu", fields), f"{bucket}/tofu")
    assert REPORT | {"model", "fit"} <= left
    assert [path.name for path in tmp_path.iterdir()] == []


def test_export(bucket, moved):
    assert {"jsonl", "tfds"} <= left_by(config_of("export", {}), f"{bucket}/export")
    assert files.names(f"{bucket}/export/tfds/embedded_world/texts")


def command(tmp_path, config, workdir: str) -> list[str]:
    """The command line of a run."""
    file = tmp_path / "config.py"
    values = config.to_json()
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({values!r}))\n"
    )
    named = [f"--config={file}", f"--workdir={workdir}"]
    return [sys.executable, "-m", "jax_surgery.main", *named]


def on_an_empty_machine(words: list[str], disk, cloud) -> subprocess.Popen:
    """A process that has a local disk of its own, with nothing on it."""
    disk.mkdir(parents=True)
    places = {name: str(disk) for name in ("HOME", "TMPDIR")}
    return subprocess.Popen(
        words,
        cwd=disk,
        env=on_devices.environment(1, **cloud.variables, **places),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_and_resumed_with_an_empty_disk_behind_faults(
    bucket, cloud, moved, tiny_model, tmp_path
):
    """The weights are those of a run without faults and stops, to the bit."""
    fields = surgery_fields(
        bucket,
        moved,
        tiny_model.texts,
        steps=STEPS,
        optimizer=dataclasses.asdict(plain_optimizer(learning_rate=1e-2)),
    )
    fields["loop"]["checkpoint_every"] = 2
    config = config_of("surgery", fields)
    start.start(config, str(tmp_path / "whole"))
    wanted = (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()

    cloud.faults.unavailable, cloud.faults.dropped = 0.1, 0.02
    workdir, draws = f"{bucket}/run", random.Random(0)
    words = command(tmp_path, config, workdir)
    for attempt in range(8):
        run = on_an_empty_machine(words, tmp_path / f"disk{attempt}", cloud)
        if attempt < KILLS:
            wait_for_save(cloud, workdir, more=1 + draws.randrange(2))
            time.sleep(draws.uniform(0, 1))
            if attempt == 1:
                cloud.faults.down_until = time.time() + 5
                time.sleep(2)
            run.kill()
        said = run.communicate(timeout=400)[0]
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, said
    assert run.returncode == 0, said
    assert "Traceback" not in said
    found = epath.Path(f"{workdir}/model/model.safetensors").read_bytes()
    assert found == wanted
    steps = [json.loads(line)["step"] for line in lines_of(f"{workdir}/metrics.jsonl")]
    assert steps == list(range(1, STEPS + 1))
    assert lock.LOCK not in files.names(workdir)


def lines_of(path: str) -> list[str]:
    return epath.Path(path).read_text().splitlines()


def wait_for_save(cloud, workdir: str, more: int) -> None:
    """Waits until so many more checkpoints have been finished."""
    began, first = time.monotonic(), saves(cloud, workdir)
    while saves(cloud, workdir) < first + more:
        assert time.monotonic() - began < 300, "no checkpoint was finished"
        time.sleep(0.1)


def saves(cloud, workdir: str) -> int:
    """How many checkpoints of a run were finished so far."""
    folder = f"{workdir.removeprefix('gs://')}/checkpoints/"
    ends = re.compile(re.escape(folder) + r"\d+/commit_success.txt")
    with cloud.storage.lock:
        return sum(bool(ends.fullmatch(name)) for name in cloud.storage.written)
