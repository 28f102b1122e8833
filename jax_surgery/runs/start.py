# SPDX-License-Identifier: Apache-2.0
"""Starts the run that a config names, in a workdir that belongs to it."""

import dataclasses
import difflib
import importlib
import json
import pathlib
from typing import Any

from etils import epath

from jax_surgery.runs import settings as run_settings
from jax_surgery.runs.loop import Interrupted, TrainingDiverged

# Errors that say what to change; anything else is a defect and shows its traceback.
EXPECTED_ERRORS = (ValueError, FileNotFoundError, TrainingDiverged, Interrupted)
CONFIG_FILE = "config.json"


def claim_workdir(settings: Any, workdir: str) -> None:
    """Makes the workdir, or checks that it belongs to the same config.

    Raises:
      ValueError: the workdir holds a run of another config.
    """
    folder = epath.Path(workdir)
    text = json.dumps(dataclasses.asdict(settings), indent=2, sort_keys=True)
    file = folder / CONFIG_FILE
    if file.exists():
        old = file.read_text()
        if old != text:
            changes = difflib.unified_diff(
                old.splitlines(), text.splitlines(), "there", "now", n=0, lineterm=""
            )
            lines = [d for d in changes if not d.startswith(("---", "+++", "@@"))]
            raise ValueError(
                f"workdir {workdir} holds a run of another config. What differs:\n  "
                + "\n  ".join(lines)
                + "\nTake another --workdir, or give the same config to go on."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def start(config: Any, workdir: str) -> None:
    """Runs a config in a workdir."""
    settings = run_settings.from_config(config)
    if "://" not in workdir:
        workdir = str(pathlib.Path(workdir).expanduser().absolute())
    claim_workdir(settings, workdir)
    story = importlib.import_module(f"jax_surgery.runs.{settings.run}")
    story.run(settings, workdir)
