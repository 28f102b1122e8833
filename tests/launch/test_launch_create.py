# SPDX-License-Identifier: Apache-2.0
"""Making and deleting slices: what is said and asked before, and what is left alone."""

import shlex

import pytest
from launch_cloud import FLAGS, RUN, Cloud

from launch import estimate, lifecycle


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    return Cloud(tmp_path, monkeypatch)


CREATE = "queued-resources create"
QUOTA = (
    "RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded. Limit: 8 in zone z."
)
STOCKOUT = 'There is no more capacity in the zone "us-west4-a"'


def test_it_says_chips_cost_and_what_the_plan_says_and_asks(cloud, capsys, monkeypatch):
    planned = []

    def plan(flags, chosen, num_slices, model):
        planned.append((flags, chosen.name, num_slices, model))
        return True

    monkeypatch.setattr(estimate, "plan", plan)
    words = ["create", "llama", "--slice=v5e:4x4", "--zone=us-west4-a", "--", *RUN]
    assert cloud.launch(*words) == 2  # nobody is there to answer, and no --yes
    said = capsys.readouterr().err
    assert "16 chips, 4 worker(s)" in said and "$19.20 an hour on demand" in said
    assert "say --yes" in said
    assert planned == [(RUN, "v5e:4x4", 1, "")] and not cloud.calls("create")
    assert not list(cloud.state.glob("*"))
    assert cloud.launch(*words[:-4], "--yes", "--", *RUN) == 0
    assert len(cloud.calls(CREATE)) == 1


def test_what_does_not_fit_is_not_made(cloud, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "plan", lambda *_: False)
    words = [w for w in FLAGS if w != "--skip-plan"]
    assert cloud.launch("create", "llama", *words, "--", *RUN) == 1
    assert "does not fit on v5e:2x2, so nothing was made" in capsys.readouterr().err
    assert not cloud.calls("create")


def test_it_waits_until_the_slices_are_there(cloud, capsys):
    cloud.set(states=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    assert cloud.launch("create", "llama", *FLAGS, "--spot", "--num-slices=2") == 0
    (call,) = cloud.calls(CREATE)
    for part in (
        *("--node-count=2", "--node-prefix=llama", "--accelerator-type=v5litepod-4"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--zone=us-west4-a"),
        *("--project=my-project", "--labels=jax-surgery-launch="),
    ):
        assert part in call
    said = capsys.readouterr().err
    assert "WAITING_FOR_RESOURCES" in said and "PROVISIONING" in said
    assert "launch setup llama" in said


def test_a_quota_is_said_at_once_and_nothing_is_left(cloud, capsys):
    cloud.set(faults=[{"match": CREATE, "stderr": f"ERROR: {QUOTA}"}])
    assert cloud.launch("create", "llama", *FLAGS) == 1
    said = capsys.readouterr().err
    assert "Limit: 8" in said and "iam-admin/quotas" in said
    assert not cloud.slept and not list(cloud.state.glob("*"))


def test_a_stockout_is_asked_for_again_with_longer_waits(cloud, capsys):
    none = [["PROVISIONING", ["FAILED", STOCKOUT]]] * 2
    cloud.set(states=[*none, ["ACTIVE"]])
    assert cloud.launch("create", "llama", *FLAGS) == 0
    assert cloud.verbs() == ["create", "delete", "create", "delete", "create"]
    assert [s for s in cloud.slept if s != 30] == [10, 20]


def test_a_stockout_that_stays_is_given_up_and_said(cloud, capsys, monkeypatch):
    monkeypatch.setattr(lifecycle, "PATIENCE", 3)
    cloud.set(states=[[["FAILED", STOCKOUT]]] * 20)
    assert cloud.launch("create", "llama", *FLAGS) == 1
    said = capsys.readouterr().err
    assert "no more capacity" in said and "another zone" in said
    assert "launch delete llama --yes" in said
    assert cloud.verbs().count("create") == 3


def test_a_request_that_fails_for_good_is_not_repeated(cloud, capsys):
    cloud.set(states=[[["FAILED", f"Quota: {QUOTA}"]]])
    assert cloud.launch("create", "llama", *FLAGS) == 1
    assert cloud.verbs() == ["create"]
    assert "ended in state FAILED" in capsys.readouterr().err


def test_half_created_the_lost_answer_makes_no_second_one(cloud, capsys):
    """The request arrives, its answer does not; the next try finds its own."""
    lost = {"match": CREATE, "stderr": "ERROR: DEADLINE_EXCEEDED", "do": "effect"}
    cloud.set(faults=[lost])
    assert cloud.launch("create", "llama", *FLAGS) == 0
    assert cloud.verbs() == ["create", "create"] and len(cloud.read()["resources"]) == 1
    assert "was asked for already; going on" in capsys.readouterr().err


def test_half_created_what_an_error_left_behind_is_said_and_can_be_deleted(
    cloud, capsys
):
    broken = {"match": CREATE, "stderr": "ERROR: something odd", "do": "effect"}
    cloud.set(faults=[broken], states=[["CREATING"]])
    assert cloud.launch("create", "llama", *FLAGS) == 1
    said = capsys.readouterr().err
    assert "something odd" in said and "left in state CREATING" in said
    assert cloud.verbs() == ["create"]  # not deleted: that was not asked for
    assert cloud.launch("delete", "llama", "--yes") == 0
    assert not cloud.read()["resources"]


OTHERS = {"labels": {}, "states": ["ACTIVE"], "nodes": ["llama"], "workers": 1}


def test_what_somebody_else_made_is_left_alone(cloud, capsys):
    cloud.set(resources={"llama": OTHERS})
    assert cloud.launch("create", "llama", *FLAGS) == 1
    assert "did not make; it was left alone" in capsys.readouterr().err
    assert not list(cloud.state.glob("*"))
    assert cloud.launch("delete", "llama", "--yes") == 2
    assert "nothing of the name llama was made from here" in capsys.readouterr().err
    assert not cloud.calls("delete")


def test_a_name_that_was_ours_and_is_another_s_now_is_left_alone(cloud, capsys):
    cloud.launch("create", "llama", *FLAGS)
    cloud.set(resources={"llama": OTHERS})
    for words in (
        ["delete", "llama", "--yes"],
        ["setup", "llama"],
        ["create", "llama"],
    ):
        more = FLAGS if words[0] == "create" else []
        assert cloud.launch(*words, *more) == 1
        assert "lacks the label" in capsys.readouterr().err
    assert not cloud.calls("queued-resources delete") and not cloud.calls("ssh")


def test_deleting_is_asked_and_takes_one_name_alone(cloud, capsys):
    cloud.launch("create", "llama", *FLAGS)
    cloud.launch("create", "other", *FLAGS)
    assert cloud.launch("delete", "llama") == 2
    assert "say --yes" in capsys.readouterr().err and not cloud.calls("delete")
    assert cloud.launch("delete", "llama", "--yes") == 0
    assert list(cloud.read()["resources"]) == ["other"]
    (call,) = cloud.calls("queued-resources delete")
    assert call.split()[4] == "llama" and "--force" in call
    assert cloud.launch("delete", "llama", "--yes") == 0
    assert "was gone already" in capsys.readouterr().err


def test_other_slices_under_the_same_name_are_refused(cloud, capsys):
    cloud.launch("create", "llama", *FLAGS)
    words = ["create", "llama", "--slice=v5e:8x8", "--zone=us-west4-a", "--skip-plan"]
    assert cloud.launch(*words) == 2
    assert "llama is 1 x v5e:2x2 in us-west4-a, on demand" in capsys.readouterr().err
    assert cloud.verbs() == ["create"]


@pytest.mark.parametrize("name", ["Llama", "../x", "a_b", "a-", "a" * 41, ""])
def test_names_are_checked(cloud, name, capsys):
    assert cloud.launch("create", name, *FLAGS) == 2
    assert "small letters" in capsys.readouterr().err
    assert not cloud.calls()


def test_a_dry_run_prints_commands_and_calls_nothing(cloud, capsys):
    flags = ["--slice=v5e:4x4", "--zone=us-west4-a", "--spot", "--dry-run"]
    assert cloud.launch("run", "llama", *flags, "--", *RUN) == 0
    out = capsys.readouterr().out.splitlines()
    assert not cloud.calls() and not cloud.state.exists()
    made = [shlex.split(line) for line in out if line.startswith("gcloud")]
    verbs = [" ".join(words[3:5]) for words in made]
    assert verbs == [
        *("queued-resources create", "queued-resources describe"),
        *("tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"),
    ]
    start = next(w for w in made[-1] if w.startswith("--command="))
    assert shlex.join(RUN) in start
    assert cloud.launch("--dry-run", "delete", "llama") == 2  # nothing has that name


def test_costs_are_added_up(cloud, capsys, monkeypatch):
    assert cloud.launch("cost") == 0
    assert "nothing was made" in capsys.readouterr().out
    words = ["--slice=v5p-8", "--zone=us-east5-a", "--hours=10"]
    assert cloud.launch("cost", *words) == 0
    out = capsys.readouterr().out
    assert (
        "$16.80 an hour on demand in us-east5-a" in out and "10 hours: $168.00" in out
    )
    now = [1000.0]
    monkeypatch.setattr("launch.state.time.time", lambda: now[0])
    cloud.launch("create", "llama", *FLAGS)
    now[0] += 1.5 * 3600
    cloud.launch("cost", "llama")
    assert "there, 1.5 hours, about $7.20" in capsys.readouterr().out
    cloud.launch("delete", "llama", "--yes")
    now[0] += 3600
    cloud.launch("cost")
    assert "not there, 1.5 hours, about $7.20" in capsys.readouterr().out
