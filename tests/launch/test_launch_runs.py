# SPDX-License-Identifier: Apache-2.0
"""A run from its start to its copy at home, through all that can befall it.

The workers are folders of this machine; what launch does there is done by bash.
"""

import json
import pathlib
import time

import pytest
from launch_cloud import FLAGS, RUN, WIDE, Cloud

from launch import lifecycle, resume
from launch.resume import verdict


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path, monkeypatch)
    yield made
    made.close()


def starts(cloud, node="llama", worker=0) -> int:
    """How often a worker's run was started, which goes on by itself: its first line may
    come after `launch` has returned."""
    path = cloud.where / node / str(worker) / "starts"
    end = time.monotonic() + 10
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return len(path.read_text().split()) if path.exists() else 0


def log(cloud, node="llama", worker=0) -> str:
    return (cloud.where / node / str(worker) / "jax_surgery_run/log").read_text()


def test_from_nothing_to_the_copy_at_home_with_a_command_each(cloud, tmp_path, capfd):
    """Started, taken away, resumed, copied, deleted."""
    cloud.codes("runs")
    assert cloud.launch("run", "llama", *WIDE, "--spot", "--", *RUN) == 0
    home = cloud.where / "llama/3/jax_surgery"
    assert (home / "own.jsonl").exists() and not (home / "my.secret").exists()
    assert [starts(cloud, worker=w) for w in range(4)] == [1] * 4
    # Taken away while it runs; the slices that are made anew run it to its end.
    away = {"match": "worker.sh status", "do": "preempt"}
    away["stderr"] = 'ERROR: This TPU has terminal state "PREEMPTED", so ...'
    cloud.set(faults=[away])
    cloud.codes("0")
    assert cloud.launch("resume", "llama") == 0
    assert cloud.verbs() == ["create", "delete", "create"]
    assert [starts(cloud, worker=w) for w in range(4)] == [1] * 4
    for worker in range(4):  # the same flags, as they were given
        run = f"run: -m jax_surgery.main {' '.join(RUN)}"
        assert log(cloud, worker=worker).splitlines() == [run]
    # Copied home, without what a stopped run goes on from.
    bucket = cloud.where / "bucket-bucket" / "run"
    for name in ("report/index.html", "results.json", "model/model.safetensors"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_text(name)
    target = tmp_path / "home"
    assert cloud.launch("fetch", "llama", f"--to={target}") == 0
    assert (target / "model/model.safetensors").exists()
    (copy,) = cloud.calls("storage rsync")
    assert copy.startswith(f"storage rsync gs://bucket/run {target} --exclude=")
    assert "checkpoints" in copy and "--recursive" in copy
    assert cloud.launch("logs", "llama", "--worker=1") == 0
    assert "run: -m" in capfd.readouterr().out
    assert cloud.launch("delete", "llama", "--yes") == 0
    assert not cloud.read()["resources"]


@pytest.mark.parametrize("state", ["SUSPENDED", "gone"])
def test_what_is_lost_is_made_anew_with_its_own_settings(cloud, state):
    cloud.launch("create", "llama", *FLAGS, "--spot")
    cloud.launch("run", "llama", "--", *RUN)
    world = cloud.read()
    if state == "gone":
        world["resources"] = {}
    else:
        world["resources"]["llama"]["states"] = [state]
    cloud.set(**world)
    assert cloud.launch("resume", "llama", "--delete") == 0
    first, second = cloud.calls("queued-resources create")
    assert first == second
    deleted = ["delete"] if state != "gone" else []
    assert cloud.verbs() == ["create", *deleted, "create", "delete"]


def test_a_run_that_lost_a_process_is_started_again_on_the_same_slice(cloud, capfd):
    cloud.codes("75 137 75 75", "130", "0")
    cloud.launch("run", "llama", *WIDE, "--", *RUN)
    assert cloud.launch("resume", "llama") == 0
    assert [starts(cloud, worker=w) for w in range(4)] == [3] * 4
    assert cloud.verbs() == ["create"]
    assert "it ended with [75, 137, 75, 75]" in capfd.readouterr().err


@pytest.mark.parametrize("code", [1, 2])
def test_a_run_that_failed_is_not_started_again_and_not_deleted(cloud, code, capfd):
    cloud.codes(str(code))
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    assert cloud.launch("resume", "llama", "--delete") == 1
    said = capfd.readouterr().err
    assert f"ended with code {code}" in said and "launch logs llama" in said
    assert starts(cloud) == 1 and cloud.verbs() == ["create"]


@pytest.mark.slow
def test_a_run_that_ends_at_once_again_and_again_is_given_up(cloud, capfd, monkeypatch):
    monkeypatch.setattr(resume, "QUICK_ENDS", 2)
    cloud.codes(*["75"] * 20)
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    assert cloud.launch("resume", "llama") == 1
    assert "ended 2 times within 10 minutes" in capfd.readouterr().err
    assert starts(cloud) == 3 and cloud.verbs() == ["create"]


@pytest.mark.slow
def test_workers_that_hang_when_another_is_lost_are_ended(cloud, capfd):
    cloud.codes("137 runs runs runs", "0")
    cloud.launch("run", "llama", *WIDE, "--", *RUN)
    assert cloud.launch("resume", "llama") == 0
    assert "ending what is left of it" in capfd.readouterr().err
    assert len(cloud.calls("worker.sh stop")) == 1
    assert [starts(cloud, worker=w) for w in range(4)] == [2] * 4


SSH = "ssh: connect to host 34.1.2.3 port 22: Connection refused\n"
SSH += "##### Command execution on worker 2 failed with exit status 255. Continuing."


def test_ssh_that_is_refused_at_first_is_tried_again(cloud):
    refused = {"match": "tpu-vm scp", "stderr": SSH, "code": 255, "times": 3}
    cloud.set(faults=[refused])
    assert cloud.launch("run", "llama", *FLAGS, "--", *RUN) == 0
    assert cloud.slept == [5, 10, 20]


@pytest.mark.slow
def test_a_worker_that_stays_down_is_replaced_once_google_says_so(cloud, capfd):
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    down = {"match": "worker.sh status", "stderr": SSH, "code": 255, "times": 18}
    cloud.set(faults=[down], health="UNHEALTHY_MAINTENANCE")
    assert cloud.launch("resume", "llama") == 0
    said = capfd.readouterr().err
    assert "worker 2 failed with exit status 255" in said
    assert "llama is READY, UNHEALTHY_MAINTENANCE" in said
    assert cloud.verbs() == ["create", "delete", "create"]


@pytest.mark.slow
def test_slices_that_google_calls_healthy_are_never_replaced(cloud, capfd):
    """Where port 22 is closed from here the run goes on well there."""
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    cloud.set(faults=[{"match": "tpu-vm ssh", "stderr": SSH, "code": 255, "times": 99}])
    assert cloud.launch("resume", "llama") == 1
    said = capfd.readouterr().err
    assert "Google calls its slices healthy, so nothing was deleted" in said
    assert cloud.verbs() == ["create"]


@pytest.mark.slow
def test_an_outage_of_google_or_of_the_network_is_waited_for(cloud):
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    outage = {"match": "describe", "stderr": "ERROR: UNAVAILABLE", "times": 8}
    cloud.set(faults=[outage])
    assert cloud.launch("resume", "llama") == 0
    assert cloud.verbs() == ["create"] and 60 in cloud.slept


@pytest.mark.slow
def test_a_stockout_after_a_preemption_is_waited_for_without_end(cloud, monkeypatch):
    monkeypatch.setattr(lifecycle, "PATIENCE", 2)
    cloud.launch("run", "llama", *FLAGS, "--spot", "--", *RUN)
    none = [[["FAILED", "There is no more capacity in the zone"]]] * 4
    cloud.set(states=[*none, ["ACTIVE"]])
    world = cloud.read()
    world["resources"]["llama"]["states"] = ["SUSPENDED"]
    cloud.set(**world)
    assert cloud.launch("resume", "llama") == 0
    assert cloud.verbs().count("create") == 6


@pytest.mark.slow
def test_setting_up_is_tried_twice_and_what_the_worker_said_is_shown(cloud, capfd):
    setup = pathlib.Path(cloud.where.parent / "checkout/tpu_setup.sh")
    setup.write_text("echo 'no TPU: NOT_FOUND' >&2; exit 1\n")
    assert cloud.launch("run", "llama", *FLAGS, "--", *RUN) == 1
    said = capfd.readouterr().err
    assert "no TPU: NOT_FOUND" in said and "launch: failed on" in said
    assert len(cloud.calls("worker.sh setup")) == 2 and cloud.verbs() == ["create"]
    assert not cloud.calls("worker.sh start")


def test_slices_of_a_multislice_are_all_set_up_and_started(cloud):
    assert cloud.launch("run", "llama", *FLAGS, "--num-slices=2", "--", *RUN) == 0
    assert cloud.launch("resume", "llama") == 0
    assert [starts(cloud, node=f"llama-{i}") for i in range(2)] == [1, 1]
    assert cloud.launch("logs", "llama", "--slice-index=2") == 2


@pytest.mark.slow
def test_a_second_run_is_refused_while_one_goes_on(cloud, capfd):
    cloud.codes("runs")
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    assert cloud.launch("run", "llama", "--", *RUN) == 0  # the same: it runs already
    assert cloud.launch("run", "llama", "--", *RUN, "--config.seed=1") == 1
    assert "another run is going on here" in capfd.readouterr().err
    noted = json.loads((cloud.state / "llama.json").read_text())
    assert noted["command"] == RUN and starts(cloud) == 1


def test_the_token_is_copied_and_stands_on_no_command_line(cloud, tmp_path):
    token = tmp_path / "token"
    token.write_text("hf_secret")
    words = [*FLAGS, f"--hf-token={token}", "--", *RUN]
    assert cloud.launch("run", "llama", *words) == 0
    copied = cloud.where / "llama/0/.cache/huggingface/token"
    assert copied.read_text() == "hf_secret"
    assert not cloud.calls("hf_secret")
    token.unlink()
    assert cloud.launch("setup", "llama") == 2


@pytest.mark.parametrize(
    ("flags", "workdir", "said"),
    [
        (["--slice=v5e:4x4"], "runs/x", "all workers write to it"),
        (["--slice=v5e:2x2", "--spot"], "runs/x", "disks of a slice go with it"),
        (["--slice=v5e:2x2"], "", "must be in a bucket"),
    ],
)
def test_a_workdir_that_would_be_lost_is_refused_first(
    cloud, flags, workdir, said, capfd
):
    run = [RUN[0], *([f"--workdir={workdir}"] if workdir else [])]
    words = [*flags, "--zone=us-west4-a", "--yes", "--skip-plan", "--", *run]
    assert cloud.launch("run", "llama", *words) == 2
    assert said in capfd.readouterr().err
    assert not cloud.calls("create")


def test_results_on_a_worker_s_disk_are_copied_without_checkpoints(cloud, tmp_path):
    words = [*FLAGS, "--", RUN[0], "--workdir=runs/x"]
    assert cloud.launch("run", "llama", *words) == 0
    workdir = cloud.where / "llama/0/jax_surgery/runs/x"
    for name in ("results.json", "model/config.json", "checkpoints/1/big"):
        (workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_text(name)
    assert cloud.launch("fetch", "llama", f"--to={tmp_path / 'home'}") == 0
    assert (tmp_path / "home/model/config.json").exists()
    assert not list((tmp_path / "home").rglob("big"))


def test_resume_and_fetch_without_a_run_say_so(cloud, capfd):
    cloud.launch("create", "llama", *FLAGS)
    assert cloud.launch("resume", "llama") == 1
    assert cloud.launch("fetch", "llama") == 1
    assert capfd.readouterr().err.count("has no run") == 2


def test_a_dry_run_of_resume_shows_a_preemption(cloud, capfd):
    cloud.launch("run", "llama", *FLAGS, "--", *RUN)
    before = len(cloud.calls())
    capfd.readouterr()
    assert cloud.launch("resume", "llama", "--dry-run") == 0
    out = capfd.readouterr().out
    for part in ("queued-resources delete llama --force", "worker.sh start"):
        assert part in out
    assert out.index("delete llama") < out.index("create llama")
    assert len(cloud.calls()) == before


@pytest.mark.parametrize(
    ("answers", "meaning"),
    [
        ([0, 0], "done"),
        ([0, 75], "again"),
        ([130, 130], "again"),
        ([75, 1], "failed"),
        ([2, "running"], "failed"),
        (["running", "running"], "going on"),
        (["running", 0], "going on"),
        (["running", 137], "ending"),
        (["running", "none"], "ending"),
        (["none", "none"], "start"),
        ([0, "none"], "start"),
        ([], "start"),
    ],
)
def test_answers_of_workers(answers, meaning):
    assert verdict(answers) == meaning
