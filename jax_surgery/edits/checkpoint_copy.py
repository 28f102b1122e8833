# SPDX-License-Identifier: Apache-2.0
"""Copies a checkpoint's folder while some of its tensors change.

The copy is made in pieces: shards keep their headers and every byte of the tensors that
do not change.
"""

import functools
import re
from collections.abc import Callable

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.edits import edit_file
from jax_surgery.edits.edit_file import Fingerprint
from jax_surgery.parallel import progress
from jax_surgery.storage import files, space

# Written last, because a bucket cannot rename a folder: without them nothing loads it.
LAST = ("config.json", hf_index.INDEX)
# Further copies of the weights, of whatever format, still hold the model before the edit;
# publishing them with the edited model would undo the edit. So what is copied is named.
COPIED = re.compile(
    r".*\.(json|jinja2?|txt|md|rst|model|tiktoken|py|ya?ml|toml|pdf|png|jpe?g|svg)$"
    r"|(licen[cs]e|notice|use_policy|readme|\.git\w+)[^.]*$",
    re.IGNORECASE,
)
# change(name of the tensor, index of the first row, rows) -> new rows.
Change = Callable[[str, int, np.ndarray], np.ndarray]


def check_target(target: epath.Path, source: epath.Path) -> None:
    """Raises ValueError if a copy of `source` cannot be written to `target`."""
    if target.exists() and (not target.is_dir() or files.names(target)):
        raise ValueError(f"{target} is not empty; give a new or an empty folder.")
    if target.is_relative_to(source):
        raise ValueError(
            f"{target} lies inside {source}, which is being read; give another folder."
        )


def write_weights(
    source: epath.Path,
    folder: epath.Path,
    entries: dict[str, Entry],
    names: list[str],
    change: Change,
    piece: int,
) -> Fingerprint:
    """Writes the shards of a checkpoint, with some tensors changed.

    Args:
      source, folder: the checkpoint and the folder of its copy.
      entries: where the checkpoint's tensors lie (`hf_index.entries_of`).
      names: the tensors that change.
      change: returns the new rows of a tensor; called in the order of the rows.
      piece: about how many weights one call gets.

    Returns:
      Hashes of the changed tensors.
    """
    hashes = {n: edit_file.hasher(entries[n].dtype, entries[n].shape) for n in names}

    def changed(name: str, start: int, rows: np.ndarray) -> np.ndarray:
        new = np.ascontiguousarray(change(name, start, rows))
        hashes[name].update(new.view(np.uint8))
        return new

    shards = sorted({entry.file for entry in entries.values()})
    total = sum(file.stat().length for file in shards)
    space.check(folder, total, "the model")
    with progress.Bar(title="writing weights", unit="B", total=total) as bar:
        for file in shards:
            into = folder / file.relative_to(source)
            own = [name for name in names if entries[name].file == file]
            changes = {
                entries[name].name: functools.partial(changed, name) for name in own
            }
            safetensors_file.rewrite(
                file, into, changes, elements=piece, progress=bar.update
            )
    return Fingerprint({name: found.hexdigest() for name, found in hashes.items()})


def copy_others(
    source: epath.Path, folder: epath.Path, entries: dict[str, Entry]
) -> tuple[str, ...]:
    """Copies the files that hold no weights (for example the tokenizer's).

    Returns:
      What was left out: hidden folders, and all but `COPIED`. The files of `LAST` are
      left to `copy_last`.
    """
    weights = {entry.file for entry in entries.values()}
    left_out, below = [], [source]
    while below:
        for item in files.children(below.pop()):
            name = str(item.relative_to(source))
            if item in weights or name in LAST:
                continue
            elif item.is_dir() and item.name.startswith("."):
                left_out.append(f"{name}/")
            elif item.is_dir():
                below.append(item)
            elif not COPIED.fullmatch(item.name):
                left_out.append(name)
            else:
                files.copy(item, folder / name)
    return tuple(left_out)


def copy_last(source: epath.Path, folder: epath.Path) -> None:
    """Copies the files that make the folder a loadable checkpoint.

    An index that is not read, because model.safetensors is, stays behind: the files
    that it names are not copied.
    """
    stale = hf_index.INDEX if (source / hf_index.SINGLE).exists() else ""
    for name in LAST:
        if name != stale and (source / name).exists():
            files.copy(source / name, folder / name)
