# SPDX-License-Identifier: Apache-2.0
"""A stand-in for gcloud: queued resources, and workers that are folders of this machine.

Run as `gcloud` with the folder of its world in FAKE_GCLOUD, where are:
  calls.jsonl: the arguments of every call
  world.json: {"resources": {name: ...}, "faults": [...], "states": [[...], ...]}
  NODE/WORKER/: home folders, in which `ssh` runs its command with bash

A fault {"match", "skip", "times", "stderr", "code", "do"} meets calls that contain
`match`: after `skip` of them, `times` (1) fail. "do" is what happens then: "preempt" takes
the slices away, "effect" lets the call have its effect though it fails.
"states" are those that the resources of successive requests go through, one at each
describe; the last stays. FAILED may stand as ["FAILED", "why"].
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

HERE = pathlib.Path(os.environ["FAKE_GCLOUD"])
WORLD = HERE / "world.json"
COMMAND = " ".join(sys.argv[1:])


def value(flag: str, default: str = "") -> str:
    found = [a for a in sys.argv[1:] if a.startswith(f"--{flag}=")]
    return found[0].split("=", 1)[1] if found else default


def fail(text: str, code: int = 1) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


def end_processes(folder: pathlib.Path) -> None:
    for pid in folder.glob("*/jax_surgery_run/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass


def lose(resource: dict) -> None:
    """The machines of a resource and their disks are gone."""
    for node in resource["nodes"]:
        end_processes(HERE / node)
        shutil.rmtree(HERE / node, ignore_errors=True)


def nodes(name: str) -> list[str]:
    count = int(value("node-count", "1"))
    return [name] if count == 1 else [f"{name}-{i}" for i in range(count)]


def queued(world: dict, verb: str, name: str) -> None:
    resources = world["resources"]
    what = f"(gcloud.compute.tpus.queued-resources.{verb})"
    if verb == "create":
        if name in resources:
            fail(f"ERROR: {what} ALREADY_EXISTS: Resource '{name}' already exists")
        key, _, mark = value("labels").partition("=")
        states = world["states"].pop(0) if world["states"] else ["ACTIVE"]
        workers = 4 if value("accelerator-type") == "v5litepod-16" else 1
        resources[name] = {
            "labels": {key: mark},
            "states": states,
            "nodes": nodes(name),
            "workers": workers,
        }
        return
    if name not in resources:
        fail(f"ERROR: {what} NOT_FOUND: Resource '{name}' was not found")
    resource = resources[name]
    if verb == "delete":
        if "--force" not in sys.argv:
            fail(f"ERROR: {what} FAILED_PRECONDITION: it has nodes")
        lose(resource)
        del resources[name]
        return
    states = resource["states"]
    state, why = states[0] if isinstance(states[0], list) else (states[0], "")
    if len(states) > 1:
        states.pop(0)
    answer = {
        "name": f"projects/p/locations/z/queuedResources/{name}",
        "state": {"state": state},
        "tpu": {"nodeSpec": [{"node": {"labels": resource["labels"]}}]},
    }
    if why:
        answer["state"]["failedData"] = {"error": {"message": why}}
    print(json.dumps(answer))


def resource_of(world: dict, node: str) -> dict:
    found = [r for r in world["resources"].values() if node in r["nodes"]]
    if not found:
        fail(f"ERROR: (gcloud.compute.tpus.tpu-vm.ssh) NOT_FOUND: {node} was not found")
    if found[0]["states"][0] == "SUSPENDED":
        fail(
            'ERROR: This TPU has terminal state "PREEMPTED", so it cannot be used anymore.'
        )
    return found[0]


def homes(resource: dict, node: str) -> list[pathlib.Path]:
    worker = value("worker", "0")
    numbers = range(resource["workers"]) if worker == "all" else [int(worker)]
    found = [HERE / node / str(number) for number in numbers]
    for home in found:
        home.mkdir(parents=True, exist_ok=True)
    return found


def ssh(resource: dict, node: str) -> int:
    """Runs the command on the workers; gcloud ends with the code of one that failed."""
    code = 0
    for home in homes(resource, node):
        environment = os.environ | {"HOME": str(home), "WORKER": home.name}
        ran = subprocess.run(
            ["bash", "-c", value("command")], cwd=home, env=environment, check=False
        )
        if ran.returncode:
            code = ran.returncode
            print(
                f"##### Command execution on worker {home.name} failed with exit status "
                f"{code}. Continuing.",
                file=sys.stderr,
            )
    return code


def scp(world: dict) -> None:
    source, target = [a for a in sys.argv[5:] if not a.startswith("--")]
    if ":" in target:
        node, path = target.split(":")
        for home in homes(resource_of(world, node), node):
            shutil.copy(source, home / path)
    else:
        node, path = source.split(":")
        shutil.copy(homes(resource_of(world, node), node)[0] / path, target)


def fault(world: dict) -> dict | None:
    """The first fault that meets this call, which is then used up."""
    for each in world["faults"]:
        if each["match"] in COMMAND and each.get("times", 1) > 0:
            if each.get("skip", 0) > 0:
                each["skip"] -= 1
                continue
            each["times"] = each.get("times", 1) - 1
            return each
    return None


def effect(world: dict) -> int:
    words = sys.argv[1:]
    if words[:3] == ["compute", "tpus", "queued-resources"]:
        queued(world, words[3], words[4])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
        return ssh(resource_of(world, words[4]), words[4])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "scp"]:
        scp(world)
    elif words[:4] == ["compute", "tpus", "tpu-vm", "describe"]:
        print(json.dumps({"state": "READY", "health": world.get("health", "HEALTHY")}))
    elif words[:2] == ["storage", "rsync"]:
        bucket = HERE / words[2].replace("gs://", "bucket-")
        shutil.copytree(bucket, words[3], dirs_exist_ok=True)
    elif words[:2] == ["config", "get-value"]:
        print("my-project")
    else:
        fail(f"ERROR: (gcloud) Invalid choice: {words}", 2)
    return 0


def main() -> int:
    with open(HERE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(HERE / "calls.jsonl", "a") as calls:
            calls.write(json.dumps(sys.argv[1:]) + "\n")
        world = json.loads(WORLD.read_text())
        met = fault(world)
        try:
            code = 0
            if met and met.get("do") == "preempt":
                for resource in world["resources"].values():
                    resource["states"] = ["SUSPENDED"]
                    lose(resource)
            if not met or met.get("do") == "effect":
                code = effect(world)
        finally:
            WORLD.write_text(json.dumps(world))
        if met:
            fail(met.get("stderr", ""), met.get("code", 1))
        return code


if __name__ == "__main__":
    sys.exit(main())
