# SPDX-License-Identifier: Apache-2.0
"""A run's workdir, which belongs to one config, and the command that resumes the run."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import shlex
import sys
from typing import Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict

from jax_surgery import command_line
from jax_surgery.parallel import distributed
from jax_surgery.storage import files, lock
from jax_surgery.storage.errors import StorageError
from jax_surgery.train import identity
from jax_surgery.train.identity import IDENTITY_FILE

CONFIG_FILE = "config.json"
FINISHED_FILE = "finished.json"
NOTES = {CONFIG_FILE, IDENTITY_FILE}  # all that is there before a run starts

_held: list[lock.Lock] = []  # of the workdir that this process has claimed


def resume_command(workdir: str) -> str:
    """This process's command line, with its workdir, to be run again."""
    arguments = sys.argv[1:]
    named = any(a.lstrip("-").partition("=")[0] == "workdir" for a in arguments)
    if not named:
        arguments = [*arguments, f"--workdir={workdir}"]
    return shlex.join([*command_line.program(), *arguments])


def default(config_file: str) -> str:
    """runs/NAME-TIME for the config's name and the time now.

    Raises:
      ValueError: on many hosts, whose clocks differ.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes run this: give --workdir, a folder that "
            "all of them reach (gs://BUCKET/RUN)."
        )
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"runs/{pathlib.Path(config_file).stem}-{now}"


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = (flatten_dict({"config": c}, sep=".") for c in (there, now))
    return [
        f"{name}: {old.get(name, '(none)')!r} there, {new.get(name, '(none)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _check(folder: epath.Path, config: dict[str, Any]) -> None:
    """Raises ValueError if the folder, which is locked, holds anything but this run."""
    for name in (*NOTES, FINISHED_FILE):
        files.remove_partials(folder / name)
    contents = set(files.names(folder)) - {lock.LOCK}
    if contents <= NOTES:  # the run never started
        identity.begin(folder, config)
        return
    if not contents & NOTES:
        raise ValueError(
            f"--workdir={folder} is not empty and holds no run; its files would be "
            "mixed with the run's. Give a new or an empty folder."
        )
    _check_config(folder, config)
    if FINISHED_FILE in contents:
        raise ValueError(
            f"--workdir={folder} holds this run, which is finished. Read its results "
            "there, or give another --workdir to run again."
        )


def _check_config(folder: epath.Path, config: dict[str, Any]) -> None:
    """Raises ValueError unless the run in a folder is of this config.

    Its hash is noted in another file too, which decides where config.json is damaged.
    """
    try:
        there = dict(json.loads((folder / CONFIG_FILE).read_bytes()))
    except (ValueError, TypeError, FileNotFoundError):
        there = None
    if there == config:
        return
    if identity.is_of(folder, config):
        print(
            f"{folder / CONFIG_FILE} is damaged and is written again: {IDENTITY_FILE} "
            "says that the run is of this config."
        )
        return
    if there is None:
        raise ValueError(
            f"--workdir={folder} holds a run whose {CONFIG_FILE} is damaged, and "
            f"{IDENTITY_FILE} does not say that it is of this config. Give the config "
            "that it began with, or another --workdir."
        )
    raise ValueError(
        f"--workdir={folder} holds a run of another config. What differs:\n  "
        + "\n  ".join(_differences(there, config))
        + "\nGive another --workdir, or that run's config to resume it."
    )


def claim(settings: Any, workdir: str) -> epath.Path:
    """Claims the workdir for the run, or finds that it is the run's already.

    Of many processes the lead does, and all raise what it finds wrong. The workdir is
    locked from then on until `release`, or until the process ends in whatever way.

    Args:
      settings: the run's, a dataclass.
      workdir: local or gs://.

    Raises:
      ValueError: it holds a run of another config, a finished run, or other files,
        cannot be written, or is not the same folder on all hosts.
      StorageError: another run works there, or the bucket cannot be used.
    """
    folder = epath.Path(workdir)
    # Through JSON, so that it compares equal to what is read back.
    config = json.loads(json.dumps(dataclasses.asdict(settings)))

    def write() -> None:
        try:
            _lock(folder)
            _check(folder, config)
            text = json.dumps(config, indent=2, sort_keys=True)
            files.write_text(folder / CONFIG_FILE, text + "\n")
        except StorageError:
            raise
        except OSError as error:
            raise ValueError(
                f"--workdir={workdir} cannot be written ({error}); give a folder that "
                "is writable."
            ) from error

    try:
        distributed.on_lead(write)
    except BaseException:
        release()
        raise
    if not distributed.all_agree((folder / CONFIG_FILE).exists()):
        raise ValueError(
            f"--workdir={workdir} is not one folder: process 0 wrote {CONFIG_FILE} and "
            "not every process finds it there. Give a folder that all hosts share, "
            "e.g. gs://BUCKET/RUN."
        )
    return folder


def _lock(folder: epath.Path) -> None:
    """Takes the workdir's lock, which this process then has until `release`."""
    if any(held.folder == folder for held in _held):
        return
    if not files.is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held = lock.Lock(folder)
    held.acquire()
    _held.append(held)


def release() -> None:
    """Gives back the lock of the workdir that this process has claimed, if any."""
    while _held:
        with contextlib.suppress(Exception):  # what ended the run is said already
            _held.pop().release()


def abandon(folder: epath.Path) -> None:
    """Removes a workdir that holds nothing but its config, and gives back its lock."""
    mine = bool(_held)
    with contextlib.suppress(Exception):  # what ended the run is to be said
        # While it is locked: the notes may be of a next run afterwards.
        if mine and set(files.names(folder)) - {lock.LOCK} <= NOTES:
            for name in NOTES:
                files.remove(folder / name)
    release()
    with contextlib.suppress(OSError):
        if mine:
            files.remove_if_empty(folder)


def finish(folder: epath.Path, run: str) -> None:
    """Marks the workdir as finished, once the run is finished on every process."""
    distributed.wait("finished")
    if distributed.is_lead():
        text = json.dumps({"run": run}) + "\n"
        files.write_text(folder / FINISHED_FILE, text)
