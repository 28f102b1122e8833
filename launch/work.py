# SPDX-License-Identifier: Apache-2.0
"""What is done on the workers: set up, start, ask, stop."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import re
import shlex
import tempfile
from collections.abc import Callable

from launch import archive, commands
from launch.errors import GcloudError, WrongInput
from launch.gcloud import Gcloud, say
from launch.lifecycle import about
from launch.state import Machine, Store

SET_UPS = 2  # tries; packages are downloaded
STATUS = re.compile(r"launch-status \S+ (none|running|ended)(?: (\d+))?")


def on_each(
    gcloud: Gcloud,
    machine: Machine,
    arguments: Callable[[str], list[str]],
    show: bool = False,
) -> str:
    """Calls gcloud once for each slice, at once; what the calls wrote.

    Args:
      arguments: of the call for a slice of this name.

    Raises:
      GcloudError: the first of those that failed, after all have ended.
    """

    def call(node: str) -> str:
        return gcloud.run(arguments(node), about(machine), show=show)

    together = 1 if gcloud.dry_run else len(machine.nodes)
    with concurrent.futures.ThreadPoolExecutor(together) as pool:
        futures = [pool.submit(call, node) for node in machine.nodes]
    return "".join(future.result() for future in futures)


def on_all(gcloud: Gcloud, machine: Machine, command: str, show: bool = True) -> str:
    """Runs a command on every worker of every slice; what they wrote.

    Raises:
      GcloudError: it failed on a worker, or a worker did not answer.
    """
    told = f'{command} || {{ echo "launch: failed on $(hostname)" >&2; exit 1; }}'
    return on_each(
        gcloud, machine, lambda node: commands.ssh(machine, node, told), show
    )


def copy(gcloud: Gcloud, machine: Machine, source: pathlib.Path, target: str) -> None:
    """Copies a file into the home folder of every worker."""
    on_each(
        gcloud,
        machine,
        lambda node: commands.copy_to(machine, node, str(source), target),
    )


def send_checkout(gcloud: Gcloud, machine: Machine) -> None:
    """Copies this checkout, as an archive, to every worker."""
    if gcloud.dry_run:
        local = pathlib.Path(tempfile.gettempdir()) / commands.ARCHIVE
        print(archive.pack_command(local))
        copy(gcloud, machine, local, commands.ARCHIVE)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = pathlib.Path(folder) / commands.ARCHIVE
        count = archive.pack(local)
        say(f"copying {count} files to {machine.workers} worker(s) of {machine.name}")
        copy(gcloud, machine, local, commands.ARCHIVE)


def set_up(gcloud: Gcloud, store: Store, machine: Machine) -> None:
    """Copies this checkout to every worker and runs tpu_setup.sh there.

    Raises:
      WrongInput: the token's file is not there.
      GcloudError: it failed on a worker.
    """
    token = pathlib.Path(machine.hf_token) if machine.hf_token else None
    if token and not token.is_file():
        raise WrongInput(
            f"--hf-token={token} does not exist; log in with 'hf auth login'."
        )
    send_checkout(gcloud, machine)
    if token:
        # A file, since others on the workers could read a command line.
        on_all(gcloud, machine, f"mkdir -p -m 700 {os.path.dirname(commands.TOKEN)}")
        copy(gcloud, machine, token, commands.TOKEN)
    into = commands.CHECKOUT
    unpack = f"mkdir -p {into} && tar -xzf {commands.ARCHIVE} -C {into}"
    for attempt in range(SET_UPS):
        try:
            on_all(gcloud, machine, f"{unpack} && bash {commands.WORKER} setup")
            break
        except GcloudError as error:
            if error.kind.name != "worker" or attempt == SET_UPS - 1:
                raise
            say(f"{machine.name}: {error} Trying again.")
    machine.ready = True
    store.save(machine)


def start(gcloud: Gcloud, machine: Machine, command: list[str] | None = None) -> None:
    """Starts the run on every worker, apart from ssh; does nothing where it runs.

    Args:
      command: its flags; None takes those that are noted.

    Raises:
      GcloudError: another run goes on there, or see `on_all`.
    """
    flags = shlex.join(machine.command if command is None else command)
    on_all(gcloud, machine, f"bash {commands.WORKER} start {flags}")


def ask(gcloud: Gcloud, machine: Machine) -> list[int | str]:
    """What every worker's run does: "none", "running", or the code it ended with.

    Raises:
      GcloudError: a worker did not answer.
    """
    said = on_all(gcloud, machine, f"bash {commands.WORKER} status", show=False)
    return [int(m[2]) if m[1] == "ended" else m[1] for m in STATUS.finditer(said)]


def stop(gcloud: Gcloud, machine: Machine) -> None:
    """Ends the run on every worker."""
    on_all(gcloud, machine, f"bash {commands.WORKER} stop")
