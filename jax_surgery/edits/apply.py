# SPDX-License-Identifier: Apache-2.0
"""Applies edits to a checkpoint's files, and rolls them back to the exact bits.

A checkpoint is read and written in pieces: its shards keep their headers and every byte
of the tensors that do not change. Rolling back needs a separate file, which lies outside
the edited checkpoint so that a published model does not contain what was removed from
it. The file holds the edit (`edit_file.load_edit` reads it) and, compressed, the
corrections of rounding errors (`rounding.correction`).
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, hf_weights, safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.edits import checkpoint_copy, edit_file, rounding
from jax_surgery.edits.edit_file import Edit, Fingerprint, short
from jax_surgery.edits.rounding import Delta
from jax_surgery.models.layout import EMBEDDING, HEAD
from jax_surgery.storage import files

PIECE = 2**20  # weights changed at a time; the delta takes 8 bytes for each


class Outcome(NamedTuple):
    """What `apply` or `rollback` did.

    Attributes:
      edit: the edit that was applied (with the hashes of its result) or rolled back.
      left_out: names of what was not copied: weights in other files, which still hold
        the model before the edit, and hidden folders.
    """

    edit: Edit
    left_out: tuple[str, ...]


def _check_shapes(edit: Edit, entries: dict[str, Entry], source: epath.Path) -> None:
    for name, (a, b) in edit.factors.items():
        found, wanted = edit_file.find(entries, name, source), (b.shape[1], len(a))
        if found.shape != wanted:
            raise ValueError(
                f"{name} has the shape {found.shape} in {source}, and the edit needs "
                f"{wanted}: the model has another architecture. Use an edit that was "
                "made for this model."
            )


def _check_base(edit: Edit, source: epath.Path) -> None:
    own = edit_file.fingerprint(source, edit.factors)
    if own.tensors == edit.base.tensors:
        return
    if edit.result and own.tensors == edit.result.tensors:
        raise ValueError(
            f"{source} is the result of this edit (model {short(own.model)}): the edit "
            "has been applied already. Give the model before the edit, or roll back "
            "first."
        )
    wanted = edit.base.tensors
    name = next(n for n in wanted if own.tensors[n] != wanted[n])
    raise ValueError(
        f"{source} is not the model that the edit was made for: {name} has the hash "
        f"{short(own.tensors[name])}, and the edit needs {short(wanted[name])} (model "
        f"{short(own.model)}, not {short(edit.base.model)}). Give the same checkpoint "
        "that the edit was made for, in the same dtype; if other edits were applied to "
        "it, roll them back first."
    )


def _check_rollback(file: epath.Path, *folders: epath.Path) -> None:
    if file.exists():
        raise ValueError(
            f"{file} exists, and another edit may need it for its rollback; give the "
            "name of a new file."
        )
    for folder in folders:
        if file.is_relative_to(folder):
            raise ValueError(
                f"{file} lies in {folder}: anyone who has that model could undo the "
                "edit. Give a file outside this folder."
            )


# Of each tensor its compressed corrections in order: (bytes of one integer before
# compression, bytes of all after it).
Parts = dict[str, list[tuple[int, int]]]


def _save_rollback(
    file: epath.Path, edit: Edit, parts: Parts, spool: IO[bytes]
) -> None:
    """Writes the rollback's file: the edit, and its corrections from a spool.

    A safetensors file starts with the sizes of its tensors, and those of the compressed
    corrections are known only at the end.
    """
    factors = edit_file.to_tensors(edit)
    layout: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        name: (factor.shape, edit_file.FLOAT) for name, factor in factors.items()
    }
    sizes = {name: sum(length for _, length in own) for name, own in parts.items()}
    for name, size in sizes.items():
        layout[_stored(name)] = ((size,), np.dtype(np.uint8))
    pieces = {"piece": PIECE, "parts": parts}
    metadata = edit_file.to_metadata(edit, rounding=json.dumps(pieces))
    spool.seek(0)
    corrections = (np.frombuffer(spool.read(n), np.uint8) for n in sizes.values())
    tensors = itertools.chain(factors.values(), corrections)
    safetensors_file.write(file, layout, tensors, metadata)


def _deltas(edit: Edit) -> Callable[[str], Delta]:
    """An edit's delta by tensor; only the last is cached: tensors are read in turn."""
    return functools.lru_cache(1)(lambda n: Delta(*edit.factors[n], edit.scale))


def _stored(name: str) -> str:
    return f"{name}.correction"


def _repeats(
    edit: Edit, source: epath.Path, entries: dict[str, Entry]
) -> dict[str, str]:
    """Tensors that repeat one that the edit changes, and which.

    That is an output head that is the embedding and that the files hold as well: where
    it did not change with the embedding it would be read as a head of its own.
    """
    embedding, head = EMBEDDING.tensor(), HEAD.tensor()
    changes = embedding in edit.factors and head not in edit.factors
    if not changes or head not in entries:
        return {}
    tied = hf_weights.load_config(str(source)).tie_embeddings
    return {head: embedding} if tied else {}


def apply(
    edit: Edit,
    model_folder: str | epath.Path,
    out_folder: str | epath.Path,
    rollback_file: str | epath.Path | None = None,
) -> Outcome:
    """Writes a checkpoint with an edit applied, and the file that rolls it back.

    Every changed tensor becomes round(W + scale * (a b)^T) in its dtype, with the same
    bits on every machine; with 16 bits small changes are there on average
    (`rounding.added`). An output head that repeats a tied embedding changes with it.
    Host memory holds the factors and one piece of a tensor. Nothing is written if the
    edit does not fit the model. A local folder appears only when it is complete; on
    gs:// config.json and the index are written last.

    Args:
      edit: an edit that was made for this checkpoint.
      model_folder: a directory in Hugging Face format, local or gs://.
      out_folder: a new or an empty folder.
      rollback_file: where to write the input of `rollback`, outside both folders; None
        writes no such file.

    Raises:
      FileNotFoundError: the checkpoint does not exist.
      ValueError: the edit was made for another model or has been applied already,
        weights overflow, out_folder is not empty, or rollback_file exists or lies
        inside one of the models.
    """
    source, target = epath.Path(model_folder), epath.Path(out_folder)
    undo = epath.Path(rollback_file) if rollback_file else None
    checkpoint_copy.check_target(target, source)
    if undo:
        _check_rollback(undo, source, target)
    entries = hf_index.entries_of(source)
    _check_shapes(edit, entries, source)
    _check_base(edit, source)
    repeats = _repeats(edit, source, entries)
    delta_of = _deltas(edit)
    parts: Parts = collections.defaultdict(list)
    beside = undo.parent if undo and "://" not in str(undo) else None
    # Contexts close in reverse: the rollback's file is in place before the model is. The
    # spool has no name, so it disappears with the process, and it lies on the disk that
    # is written to, which has room for it.
    with (
        files.made(target) as folder,
        files.made(undo) if undo else contextlib.nullcontext() as file,
        tempfile.TemporaryFile(dir=beside) as spool,
    ):

        def change(name: str, start: int, rows: np.ndarray) -> np.ndarray:
            own = repeats.get(name, name)
            delta = delta_of(own).rows(start, start + len(rows))
            edited = rounding.added(rows, delta, own, start)
            if rounding.overflows(rows, edited):
                raise ValueError(
                    f"the edit makes numbers in {name} that are too large for "
                    f"{rows.dtype}; use a smaller scale."
                )
            if file and name == own:
                itemsize, stored = rounding.correction(rows, edited, delta)
                parts[name].append((itemsize, spool.write(stored)))
            return edited

        result = checkpoint_copy.write_weights(
            source, folder, entries, [*edit.factors, *repeats], change, PIECE
        ).of(edit.factors)
        done = dataclasses.replace(edit, result=result)
        left_out = checkpoint_copy.copy_others(source, folder, entries)
        if file:
            _save_rollback(file, done, parts, spool)
        checkpoint_copy.copy_last(source, folder)
    return Outcome(done, left_out)


def _check_edited(
    edit: Edit, result: Fingerprint, source: epath.Path, file: epath.Path
) -> None:
    own = edit_file.fingerprint(source, edit.factors)
    if own.tensors != result.tensors:
        name = next(n for n in own.tensors if own.tensors[n] != result.tensors[n])
        raise ValueError(
            f"{file} belongs to another model: it rolls back the edit that produced "
            f"the model {short(result.model)}, and {source} is {short(own.model)} "
            f"({name} differs). Roll back the last edit first, and give the model as it "
            "was written (not trained since, nor saved in another dtype)."
        )


def _restoring(
    edit: Edit, file: epath.Path, repeats: dict[str, str]
) -> tuple[checkpoint_copy.Change, int]:
    """The function that restores rows of weights, and how many weights it expects."""
    entries = safetensors_file.read_header(file)
    metadata = safetensors_file.read_metadata(file)
    if "rounding" not in metadata:
        raise ValueError(
            f"{file} is an edit without the corrections of rounding errors that a "
            "rollback needs; give the rollback.safetensors that was written when the "
            "edit was applied."
        )
    layout = json.loads(metadata["rounding"])
    delta_of = _deltas(edit)

    def pieces(name: str) -> Iterator[tuple[int, bytes]]:
        entry, start = entries[_stored(name)], 0
        for itemsize, length in layout["parts"][name]:
            raw = safetensors_file.read_rows(entry, start, start + length)
            yield itemsize, raw.tobytes()
            start += length

    owners = {name: name for name in edit.factors} | repeats
    left = {name: pieces(own) for name, own in owners.items()}

    def change(name: str, start: int, rows: np.ndarray) -> np.ndarray:
        delta = delta_of(owners[name]).rows(start, start + len(rows))
        return rounding.restored(rows, delta, *next(left[name]))

    return change, layout["piece"]


def rollback(
    model_folder: str | epath.Path,
    rollback_file: str | epath.Path,
    out_folder: str | epath.Path,
) -> Outcome:
    """Writes a checkpoint as it was before an edit, with exactly the same bits.

    The hashes of what is read and of what is written are both checked.

    Args:
      model_folder: the checkpoint that `apply` wrote, local or gs://.
      rollback_file: the file that `apply` wrote with it.
      out_folder: a new or an empty folder.

    Raises:
      FileNotFoundError: the checkpoint or the file does not exist.
      ValueError: the file belongs to another model, the checkpoint has changed since,
        or out_folder is not empty.
    """
    source, target = epath.Path(model_folder), epath.Path(out_folder)
    file = epath.Path(rollback_file)
    checkpoint_copy.check_target(target, source)
    entries = hf_index.entries_of(source)
    edit = edit_file.load_edit(file)
    repeats = _repeats(edit, source, entries)
    change, piece = _restoring(edit, file, repeats)
    _check_shapes(edit, entries, source)
    assert edit.result, "apply() writes the result into the rollback's file"
    _check_edited(edit, edit.result, source, file)
    with files.made(target) as folder:
        before = checkpoint_copy.write_weights(
            source, folder, entries, [*edit.factors, *repeats], change, piece
        ).of(edit.factors)
        if before.tensors != edit.base.tensors:
            raise ValueError(
                f"the restored model has the hash {short(before.model)}, and the model "
                f"before the edit had {short(edit.base.model)}: {file} is damaged. Copy "
                "it again from where it was written."
            )
        left_out = checkpoint_copy.copy_others(source, folder, entries)
        checkpoint_copy.copy_last(source, folder)
    return Outcome(edit, left_out)
