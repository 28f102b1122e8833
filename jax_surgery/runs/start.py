# SPDX-License-Identifier: Apache-2.0
"""Starts the run that a config names, in a workdir that belongs to it."""

import dataclasses
import datetime
import importlib
import json
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from jax_surgery.parallel import distributed, host_memory
from jax_surgery.runs import settings as run_settings
from jax_surgery.train.loop import Interrupted, TrainingDiverged

CONFIG_FILE = "config.json"
FINISHED_FILE = "finished.json"
# Runs whose module has another name.
MODULES = {"edit": "patch", "benchmark": "export"}
PACKAGE = str(pathlib.Path(__file__).parents[1])


def is_expected(error: BaseException) -> bool:
    """Whether the message says it all; anything else shows its traceback.

    Those are the loop's stops, and wrong values and missing files that this package
    found; the same from inside a library are a defect here.
    """
    if isinstance(error, TrainingDiverged | Interrupted):
        return True
    if not isinstance(error, ValueError | FileNotFoundError):
        return False
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return raised_in.startswith(PACKAGE)


def resume_command(workdir: str) -> str:
    """This process's command line, with its workdir, to be run again."""
    python, arguments = sys.executable, sys.argv[1:]
    if python.startswith(os.getcwd() + os.sep):
        python = os.path.relpath(python)
    named = any(a.lstrip("-").partition("=")[0] == "workdir" for a in arguments)
    if not named:
        arguments = [*arguments, f"--workdir={workdir}"]
    return shlex.join([python, "-m", "jax_surgery.main", *arguments])


def _flat(values: dict[str, Any], path: str = "config") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = dict(_flat(there)), dict(_flat(now))
    return [
        f"{name}: {old.get(name, '(none)')!r} there, {new.get(name, '(none)')!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _check_workdir(folder: epath.Path, config: dict[str, Any]) -> None:
    """Raises ValueError where the folder holds something else than this run."""
    contents = {item.name for item in folder.iterdir()} if folder.exists() else set()
    if contents <= {CONFIG_FILE}:  # a config alone is a run that never began
        return
    if CONFIG_FILE not in contents:
        raise ValueError(
            f"--workdir={folder} is not empty and holds no run; its files would be "
            "mixed with the run's. Give a new or an empty folder."
        )
    there = json.loads((folder / CONFIG_FILE).read_text())
    if differences := _differences(there, config):
        raise ValueError(
            f"--workdir={folder} holds a run of another config. What differs:\n  "
            + "\n  ".join(differences)
            + "\nGive another --workdir, or the config as it is there to go on with it."
        )
    if FINISHED_FILE in contents:
        raise ValueError(
            f"--workdir={folder} holds this very run, finished. Read its results "
            "there, or give another --workdir to run again."
        )


def claim_workdir(settings: Any, workdir: str) -> epath.Path:
    """Makes the workdir the run's, or finds that it is so already.

    Of many processes the first does; if it raises, the others end with it.

    Raises:
      ValueError: it holds a run of another config, a finished run, or other files, or
        cannot be written.
    """
    folder = epath.Path(workdir)
    if not distributed.is_lead():
        distributed.wait("workdir")
        return folder
    # Through JSON, so that it compares equal to what is read back.
    config = json.loads(json.dumps(dataclasses.asdict(settings)))
    try:
        _check_workdir(folder, config)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / CONFIG_FILE).write_text(text + "\n")
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written ({error}); give a folder that can."
        ) from error
    distributed.wait("workdir")
    return folder


def _abandon(folder: epath.Path) -> None:
    """Removes a workdir that holds nothing but its config."""
    if not distributed.is_lead():
        return
    if {item.name for item in folder.iterdir()} == {CONFIG_FILE}:
        (folder / CONFIG_FILE).unlink()
        folder.rmdir()


def default_workdir(config_file: str) -> str:
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


def start(config: Any, workdir: str | None, config_file: str = "run.py") -> None:
    """Runs a config in a workdir.

    Args:
      config: see `settings.from_config`.
      workdir: local or gs://; None takes `default_workdir`.
      config_file: the config's, which names that.

    Raises:
      Interrupted: after Ctrl-C, saying how to go on.
      TrainingDiverged, ValueError, FileNotFoundError: see the runs.
    """
    settings = run_settings.from_config(config)
    if settings.run == "plan":
        # Compiler readers are loaded for this run alone.
        from jax_surgery.plan import topologies

        topologies.prepare()  # before JAX looks for devices
    elif jax.default_backend() == "cpu":
        host_memory.keep_freed_memory()
    workdir = workdir or default_workdir(config_file)
    if "://" not in workdir:
        workdir = str(pathlib.Path(workdir).expanduser().absolute())
    folder = claim_workdir(settings, workdir)
    module = MODULES.get(settings.run, settings.run)
    story = importlib.import_module(f"jax_surgery.runs.{module}")
    go_on = f"Go on with:\n  {resume_command(workdir)}"
    try:
        story.run(settings, workdir)
    except Interrupted as error:
        raise Interrupted(f"{error} {go_on}") from None
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped at once; checkpoints written before are in {workdir}. {go_on}"
        ) from None
    except (ValueError, FileNotFoundError):
        _abandon(folder)
        raise
    if distributed.is_lead():
        (folder / FINISHED_FILE).write_text(json.dumps({"run": settings.run}) + "\n")
