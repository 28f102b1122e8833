# SPDX-License-Identifier: Apache-2.0
"""What gcloud's errors are taken for, in its own words, and when a call is repeated."""

import json

import pytest
from launch_cloud import Cloud

from launch import errors, gcloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    return Cloud(tmp_path, monkeypatch)


ERROR = "ERROR: (gcloud.compute.tpus.queued-resources.create) "
SAID = [
    (
        (
            'There is no more capacity in the zone "us-west4-a"; you can try in another zone '
            "where Cloud TPU Nodes are offered (see https://cloud.google.com/tpu/docs/regions)"
            " [EID: 0xba393c906974e61]"
        ),
        "stockout",
    ),
    ("Insufficient capacity. [EID: 0x7adf6d58c08b0aa4]", "stockout"),
    (
        (
            "RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' "
            "has been exceeded. Limit: 0 in region us-east5."
        ),
        "quota",
    ),
    (
        (
            "Quota 'TPUV5sPreemptibleLitepodPerProjectPerRegionForTPUAPI' exhausted. Limit "
            "10000 in region us-west4"
        ),
        "quota",
    ),
    (
        (
            "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Create requests' and limit "
            "'Create requests per minute' of service 'tpu.googleapis.com'"
        ),
        "rate",
    ),
    ("ALREADY_EXISTS: Resource 'projects/p/q' already exists", "exists"),
    ("NOT_FOUND: Resource 'projects/p/q' was not found", "missing"),
    (
        'This TPU has terminal state "PREEMPTED", so it cannot be used anymore.',
        "preempted",
    ),
    (
        'This TPU has state "REPAIRING", so it cannot be currently connected to.',
        "not ready",
    ),
    (
        "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on resource",
        "permission",
    ),
    (
        (
            "PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before or it is "
            "disabled. SERVICE_DISABLED"
        ),
        "disabled",
    ),
    ("You do not currently have an active account selected.", "login"),
    (
        "Reauthentication failed. cannot prompt during non-interactive execution.",
        "login",
    ),
    ("unrecognized arguments: --spot (did you mean '--stop'?)", "arguments"),
    ("UNAVAILABLE: The service is currently unavailable.", "unavailable"),
    ("gcloud crashed (ConnectionError): Connection aborted.", "unavailable"),
    (
        (
            'SSH Key is not present in the SSH agent. Please run "ssh-add '
            '~/.ssh/google_compute_engine" to add it, and try again.'
        ),
        "key",
    ),
    ("[/usr/bin/ssh] exited with return code [255].", "ssh"),
    ("ssh: connect to host 34.1.2.3 port 22: Connection refused", "ssh"),
    ("Something that nobody has seen", "other"),
]


@pytest.mark.parametrize(("said", "kind"), SAID, ids=[k for _, k in SAID])
def test_errors_are_told_apart(said, kind):
    assert errors.kind_of(ERROR + said).name == kind
    told = str(
        errors.GcloudError(errors.kind_of(said), ERROR + said, "us-west4-a", "llama")
    )
    assert said.rstrip(".") in told
    assert kind == "other" or len(told) > len(ERROR + said) + 10  # what to do
    assert "{" not in told


def test_words_of_a_worker_are_not_taken_for_google_s():
    said = "python was not found, Quota, 503\nlaunch: failed on t1v-n-0-w-2\n"
    said += (
        "##### Command execution on worker 2 failed with exit status 1. Continuing.\n"
    )
    assert errors.kind_of(said).name == "worker"
    assert "worker 2" in errors.last_words(said) and "t1v-n-0-w-2" in errors.last_words(
        said
    )


def test_what_passes_is_tried_again_and_waits_longer_each_time(cloud, capsys):
    fault = {"match": "describe", "stderr": ERROR + "UNAVAILABLE: try", "times": 3}
    cloud.set(
        faults=[fault],
        resources={"x": {"labels": {}, "states": ["ACTIVE"], "nodes": ["x"]}},
    )
    found = gcloud.Gcloud(sleep=cloud.sleep).read(
        ["compute", "tpus", "queued-resources", "describe", "x"]
    )
    assert found["state"] == {"state": "ACTIVE"}
    assert cloud.slept == [5, 10, 20]
    assert "Trying again in 5 s" in capsys.readouterr().err


def test_what_does_not_pass_is_given_up(cloud):
    cloud.set(faults=[{"match": "config", "stderr": "UNAVAILABLE", "times": 99}])
    with pytest.raises(errors.GcloudError, match="UNAVAILABLE.*did not answer"):
        gcloud.Gcloud(sleep=cloud.sleep).run(["config", "get-value", "project"])
    assert len(cloud.slept) == gcloud.TRIES - 1
    assert max(cloud.slept) <= gcloud.LONGEST_WAIT


def test_what_stays_is_tried_once(cloud):
    cloud.set(faults=[{"match": "config", "stderr": "PERMISSION_DENIED", "times": 99}])
    with pytest.raises(errors.GcloudError, match=r"roles/tpu\.admin"):
        gcloud.Gcloud(sleep=cloud.sleep).run(["config", "get-value", "project"])
    assert not cloud.slept and len(cloud.calls()) == 1


def test_without_gcloud_it_says_where_to_get_it(cloud, monkeypatch):
    monkeypatch.setenv("PATH", str(cloud.where))
    with pytest.raises(errors.LaunchError, match="cloud.google.com/sdk"):
        gcloud.Gcloud().run(["config"])


def test_a_broken_answer_is_said(cloud, monkeypatch):
    monkeypatch.setattr(gcloud, "_call", lambda command, show: (0, "<html>", ""))
    with pytest.raises(errors.LaunchError, match="no JSON: '<html>'"):
        gcloud.Gcloud().read(["x"])
    monkeypatch.setattr(gcloud, "_call", lambda *_: (0, json.dumps({"a": 1}), ""))
    assert gcloud.Gcloud().read(["x"]) == {"a": 1}
