# SPDX-License-Identifier: Apache-2.0
"""Copies what a run wrote home: report, results.json, model, edit file; no checkpoints."""

from __future__ import annotations

import pathlib
import re
import shlex
import tarfile
import tempfile

from launch import commands
from launch.errors import LaunchError, WrongInput
from launch.gcloud import Gcloud, say
from launch.lifecycle import about
from launch.state import Machine

# What a stopped run goes on from, what it caches, and a model before: many times the rest.
LEFT_OUT = r"(^|.*/)(checkpoints|reference|fit)/.*"


def workdir_of(command: list[str]) -> str:
    """The workdir that a run's flags name; "" without one."""
    given = [f.split("=", 1)[1] for f in command if re.match(r"--?workdir=", f)]
    return given[-1] if given else ""


def demand_workdir(command: list[str], workers: int, spot: bool) -> None:
    """Raises where the workdir does not outlive the slice, or is not shared by workers.

    Raises:
      WrongInput: see above; or there is none.
    """
    workdir = workdir_of(command)
    if workdir.startswith("gs://"):
        return
    if workers > 1 or spot or not workdir:
        raise WrongInput(
            f"--workdir={workdir or '(none)'} must be in a bucket: "
            + ("all workers write to it" if workers > 1 else "a run goes on from it")
            + ", and the disks of a slice go with it. Give --workdir=gs://BUCKET/RUN "
            "after '--'; 'gcloud storage buckets create gs://BUCKET --location=REGION' "
            "makes one, best in the slice's region."
        )


def fetch(
    gcloud: Gcloud, machine: Machine, target: pathlib.Path, everything: bool
) -> None:
    """Copies a run's results into a local folder; again copies what is new.

    Args:
      everything: checkpoints and caches too; of a bucket alone.

    Raises:
      LaunchError: there is nothing to copy, or it cannot be reached.
    """
    workdir = workdir_of(machine.command)
    if not workdir:
        raise LaunchError(
            f"{machine.name} has no run, so there is nothing to copy; start one with "
            f"'python -m launch run {machine.name} -- --config=... --workdir=gs://...'."
        )
    if not gcloud.dry_run:
        target.mkdir(parents=True, exist_ok=True)
    if workdir.startswith("gs://"):
        left_out = "" if everything else LEFT_OUT
        copy = commands.sync(
            workdir.rstrip("/"), str(target), machine.project, left_out
        )
        gcloud.run(copy, about(machine), show=True)
    else:
        from_worker(gcloud, machine, workdir, target)
    if not gcloud.dry_run:
        tell(target)


def from_worker(
    gcloud: Gcloud, machine: Machine, workdir: str, target: pathlib.Path
) -> None:
    """Copies results from the first worker's own disk."""
    command = f"bash {commands.WORKER} pack {shlex.quote(workdir)}"
    ssh = commands.ssh(machine, machine.nodes[0], command, worker="0")
    gcloud.run(ssh, about(machine), show=True)
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder) / "results.tar"
        copy = commands.copy_from(machine, local.name, str(local))
        gcloud.run(copy, about(machine), show=True)
        if not gcloud.dry_run:
            with tarfile.open(local) as archive:
                archive.extractall(target, filter="data")


def tell(target: pathlib.Path) -> None:
    """Says what was copied, and what is not there yet."""
    names = ("report/index.html", "results.json", "model")
    missing = [name for name in names if not (target / name).exists()]
    say(f"copied to {target}; open {target / 'report' / 'index.html'}")
    if missing:
        say(f"not there (yet): {', '.join(missing)}")
