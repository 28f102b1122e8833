# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's folder copied, some of its tensors changed on the way.

It goes through piece by piece: shards keep their headers and all bytes of the tensors
that stay.
"""

import functools
import re
from collections.abc import Callable

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, safetensors_file
from jax_surgery.checkpoints.hf_weights import progress_bar
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.edits import file as edit_file
from jax_surgery.edits.file import Fingerprint

# Written last where a folder cannot be renamed: without them nothing loads it.
LAST = ("config.json", hf_index.INDEX)
# The weights once more, without the edit: not to be handed on with it.
OTHER_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth?|ckpt|gguf|h5|msgpack|onnx.*)$")
# change(name of the tensor, first row, rows) -> rows.
Change = Callable[[str, int, np.ndarray], np.ndarray]


def check_target(target: epath.Path, source: epath.Path) -> None:
    """Raises ValueError where a copy of `source` cannot be made at `target`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty; give a new or an empty folder.")
    if target.is_relative_to(source):
        raise ValueError(f"{target} lies in {source}, which is read; give another.")


def write_weights(
    source: epath.Path,
    folder: epath.Path,
    entries: dict[str, Entry],
    names: list[str],
    change: Change,
    piece: int,
) -> Fingerprint:
    """Writes the shards, with some tensors changed.

    Args:
      source, folder: where the checkpoint is, and where its copy goes.
      entries: of the checkpoint (`hf_index.entries_of`).
      names: of the tensors that change.
      change: what their rows become; called in the order of the rows.
      piece: weights in one call, about.

    Returns:
      Hashes of what the tensors became.
    """
    hashes = {n: edit_file.hasher(entries[n].dtype, entries[n].shape) for n in names}

    def changed(name: str, start: int, rows: np.ndarray) -> np.ndarray:
        new = np.ascontiguousarray(change(name, start, rows))
        hashes[name].update(new.view(np.uint8))
        return new

    files = sorted({entry.file for entry in entries.values()})
    total = sum(file.stat().length for file in files)
    with progress_bar("writing weights", total) as bar:
        for file in files:
            into = folder / file.relative_to(source)
            into.parent.mkdir(parents=True, exist_ok=True)
            own = [name for name in names if entries[name].file == file]
            changes = {name: functools.partial(changed, name) for name in own}
            safetensors_file.rewrite(
                file, into, changes, elements=piece, progress=bar.update
            )
    return Fingerprint({name: found.hexdigest() for name, found in hashes.items()})


def copy_others(
    source: epath.Path, folder: epath.Path, entries: dict[str, Entry]
) -> tuple[str, ...]:
    """Copies what is no weights (the tokenizer's files, say), but not `LAST`.

    Returns:
      What was left out: hidden folders, and files of `OTHER_WEIGHTS`.
    """
    weights = {entry.file for entry in entries.values()}
    left_out, below = [], [source]
    while below:
        for item in sorted(below.pop().iterdir()):
            name = str(item.relative_to(source))
            if item in weights or name in LAST:
                continue
            elif item.is_dir() and item.name.startswith("."):
                left_out.append(f"{name}/")
            elif item.is_dir():
                below.append(item)
            elif OTHER_WEIGHTS.match(item.name):
                left_out.append(name)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                item.copy(folder / name)
    return tuple(left_out)


def copy_last(source: epath.Path, folder: epath.Path) -> None:
    """Copies what makes the folder a checkpoint."""
    for name in LAST:
        if (source / name).exists():
            (source / name).copy(folder / name)
