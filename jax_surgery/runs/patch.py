# SPDX-License-Identifier: Apache-2.0
"""Works on edit files: applies, rolls back, scales, composes and shows them.

An action reads edit files (and a model), and writes a model or an edit. It prints the
command that undoes it.
"""

import dataclasses
import datetime
import json
import math
import shlex
from typing import Any

from etils import epath

from jax_surgery.benchmarks import model_source
from jax_surgery.checkpoints import hf_weights
from jax_surgery.command_line import shown_path
from jax_surgery.config import at_least, choice, names
from jax_surgery.edits import algebra, apply, edit_file
from jax_surgery.edits.edit_file import Edit, short
from jax_surgery.parallel import progress
from jax_surgery.report import page
from jax_surgery.runs import endings
from jax_surgery.storage import files
from jax_surgery.train.workdir import CONFIG_FILE

EDIT, MODEL, ROLLBACK = "edit.safetensors", "model", "rollback.safetensors"
# The fields that each action reads.
ACTIONS = {
    "apply": ("edits", "model", "scale"),
    "rollback": ("edits", "model"),
    "scale": ("edits", "scale"),
    "compose": ("edits", "rank"),
    "show": ("edits",),
}
# What a field must be where the action does not read it.
UNUSED = {"edits": "", "model": "", "scale": 1.0, "rank": 0}


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """What to do with which edit files (`run = "edit"`)."""

    run: str
    action: str  # or "apply", "rollback", "scale", "compose"
    edits: str  # files of edits, comma-separated
    model: str  # "embedded", "suite", a directory, or a hub name
    scale: float  # factor on the edit's change
    rank: int  # highest rank of a composed edit; 0 keeps it exact

    def __post_init__(self):
        choice(self.action, tuple(ACTIONS), "config.action")
        at_least(0, self, "config", "rank")
        if not math.isfinite(self.scale):
            raise ValueError(f"config.scale={self.scale} must be a finite number.")
        for name, unused in UNUSED.items():
            value = getattr(self, name)
            if name not in ACTIONS[self.action] and value != unused:
                raise ValueError(
                    f"config.{name}={value!r}: action {self.action!r} does not "
                    f"use it (it uses {', '.join(ACTIONS[self.action])}). Leave it out."
                )


def provenance(**fields: Any) -> dict[str, Any]:
    """The provenance that every edit records, with further fields."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "created": now.isoformat(timespec="seconds"),
        "versions": page.versions(),
        **fields,
    }


def run(settings: EditSettings, directory: str) -> None:
    """Runs one of `ACTIONS`, which writes `model/`, an edit or both.

    Raises:
      FileNotFoundError: an edit or the model does not exist.
      ValueError: an edit does not fit the model or the other edits.
    """
    folder = epath.Path(directory)
    match settings.action:
        case "apply":
            _apply(settings, folder)
        case "rollback":
            _rollback(settings, folder)
        case "scale":
            edit = edit_file.load_edit(_one_file(settings))
            _write(algebra.scaled(edit, settings.scale), folder)
        case "compose":
            edits = [edit_file.load_edit(file) for file in _files(settings)]
            edit = algebra.compose(edits, settings.rank)
            edit.provenance.update(provenance())
            _write(edit, folder)
        case "show":
            for file in _files(settings):
                _describe(edit_file.load_edit(file))


def _files(settings: EditSettings) -> list[str]:
    files = names(settings.edits)
    if not files:
        raise ValueError(
            f"config.edits is empty: action {settings.action!r} needs the file of an "
            f"edit, e.g. --config.edits=runs/u/{EDIT}."
        )
    return files


def _one_file(settings: EditSettings) -> str:
    files = _files(settings)
    if len(files) > 1:
        raise ValueError(
            f"config.edits names {len(files)} files, and action {settings.action!r} "
            "takes one. Combine edits with action 'compose' first; roll edits back one "
            "after another, the last one first."
        )
    return files[0]


def _model(settings: EditSettings) -> epath.Path:
    if not settings.model:
        raise ValueError(
            f"config.model is empty: action {settings.action!r} needs the directory of "
            "a model, e.g. --config.model=DIR."
        )
    return hf_weights.resolve(model_source(settings.model))


def _command(action: str, folder: epath.Path, suffix: str, **fields: object) -> str:
    named = {name: shown_path(value) for name, value in fields.items()}
    workdir = shown_path(folder.parent / f"{folder.name}-{suffix}")
    return shlex.join(endings.command("edit", {"action": action} | named, workdir))


def print_left_out(left_out: tuple[str, ...]) -> None:
    """Says which files beside the weights were not copied."""
    if left_out:
        print(
            f"not copied: {', '.join(left_out)} (other files, which may still "
            "hold the model before the edit, and hidden folders)"
        )


def _remove_unfinished(folder: epath.Path, *names: str) -> None:
    """Removes what this run wrote before it was stopped: only such a run comes here."""
    if (folder / CONFIG_FILE).exists():  # a workdir, which belongs to the run
        for name in names:
            files.remove(folder / name)


def _apply(settings: EditSettings, folder: epath.Path) -> None:
    edit, model = edit_file.load_edit(_one_file(settings)), _model(settings)
    _remove_unfinished(folder, MODEL, ROLLBACK)
    if settings.scale != 1:
        edit = algebra.scaled(edit, settings.scale)
    with progress.phase("applying the edit"):
        done = apply.apply(edit, model, folder / MODEL, folder / ROLLBACK)
    edit_file.save_edit(done.edit, folder / EDIT)
    print_left_out(done.left_out)
    files = {"edits": folder / ROLLBACK, "model": folder / MODEL}
    print(
        f"{folder / MODEL} is {model} with the edit {_identity(done.edit)}. Anyone who "
        f"has {folder / EDIT} or {folder / ROLLBACK} can restore what was removed: do "
        "not publish either with the model. This command rolls the edit back:\n  "
        + _command("rollback", folder, "undone", **files)
    )


def _rollback(settings: EditSettings, folder: epath.Path) -> None:
    file, model = _one_file(settings), _model(settings)
    _remove_unfinished(folder, MODEL)
    with progress.phase("rolling the edit back"):
        done = apply.rollback(model, file, folder / MODEL)
    print_left_out(done.left_out)
    files = {"edits": file, "model": folder / MODEL}
    print(
        f"{folder / MODEL} is {model} before the edit {_identity(done.edit)}, with "
        "exactly the same bits. This command applies the edit again:\n  "
        + _command("apply", folder, "edited", **files)
    )


def _write(edit: Edit, folder: epath.Path) -> None:
    edit_file.save_edit(edit, folder / EDIT)
    _describe(edit)
    print(
        f"wrote {folder / EDIT}; the edits that it was made from are unchanged. Delete "
        "the file to undo this."
    )


def _identity(edit: Edit) -> str:
    return f"{short(edit.digest)} x {edit.scale:g}"


def _describe(edit: Edit) -> None:
    """Prints everything about an edit except its numbers."""
    print(f"edit {_identity(edit)} for the model {short(edit.base.model)}", end="")
    print(f", which makes {short(edit.result.model)} of it" if edit.result else "")
    print(json.dumps(edit.provenance, indent=2))
    print("   rank      norm  matrix [outputs, inputs]")
    for name, norm in edit.norms.items():
        a, b = edit.factors[name]
        print(f"{a.shape[1]:7d} {norm:9.4g}  {name} [{b.shape[1]}, {len(a)}]")
