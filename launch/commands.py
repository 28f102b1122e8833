# SPDX-License-Identifier: Apache-2.0
"""The arguments of every call of gcloud."""

from __future__ import annotations

from launch.state import Machine

LABEL = "jax-surgery-launch"
CHECKOUT = "jax_surgery"  # in the home folder of a worker
ARCHIVE = "jax_surgery.tar.gz"
WORKER = f"{CHECKOUT}/launch/worker.sh"
TOKEN = ".cache/huggingface/token"


def _place(machine: Machine) -> list[str]:
    project = [f"--project={machine.project}"] if machine.project else []
    return [f"--zone={machine.zone}", *project, "--quiet"]


def _queued(verb: str, machine: Machine) -> list[str]:
    return ["compute", "tpus", "queued-resources", verb, machine.name]


def create(machine: Machine) -> list[str]:
    """Asks for the slices; Google queues the request until they are free."""
    nodes = (
        [f"--node-id={machine.name}"]
        if machine.num_slices == 1
        else [f"--node-count={machine.num_slices}", f"--node-prefix={machine.name}"]
    )
    return [
        *_queued("create", machine),
        *nodes,
        f"--accelerator-type={machine.shape.accelerator_type}",
        f"--runtime-version={machine.runtime}",
        f"--labels={LABEL}={machine.mark}",
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *(["--spot"] if machine.spot else []),
        *_place(machine),
    ]


def describe(machine: Machine) -> list[str]:
    return [*_queued("describe", machine), *_place(machine)]


def node(machine: Machine, name: str) -> list[str]:
    """One slice, with its state and health."""
    return ["compute", "tpus", "tpu-vm", "describe", name, *_place(machine)]


def delete(machine: Machine) -> list[str]:
    """Deletes the request and its slices."""
    return [*_queued("delete", machine), "--force", *_place(machine)]


def ssh(machine: Machine, node: str, command: str, worker: str = "all") -> list[str]:
    """Runs a command of the shell on workers of a slice, in their home folder."""
    return [
        *["compute", "tpus", "tpu-vm", "ssh", node],
        f"--worker={worker}",
        f"--command={command}",
        *_place(machine),
    ]


def copy_to(machine: Machine, node: str, source: str, target: str) -> list[str]:
    """Copies a file into the home folder of all workers of a slice."""
    return [
        *["compute", "tpus", "tpu-vm", "scp", source, f"{node}:{target}"],
        "--worker=all",
        *_place(machine),
    ]


def copy_from(machine: Machine, source: str, target: str) -> list[str]:
    """Copies a file from the home folder of the first worker of the first slice."""
    return [
        *["compute", "tpus", "tpu-vm", "scp", f"{machine.nodes[0]}:{source}", target],
        "--worker=0",
        *_place(machine),
    ]


def sync(bucket: str, target: str, project: str, leave_out: str) -> list[str]:
    """Copies what a folder in a bucket has and a local folder lacks."""
    return [
        *["storage", "rsync", bucket, target],
        *([f"--exclude={leave_out}"] if leave_out else []),
        *([f"--project={project}"] if project else []),
        "--recursive",
    ]
