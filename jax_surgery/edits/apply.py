# SPDX-License-Identifier: Apache-2.0
"""Edits applied to a checkpoint's files, and undone to the bit.

A checkpoint goes through piece by piece: its shards keep their headers and all bytes of
the tensors that stay. What undoes an edit is a file of its own, outside the edited
checkpoint, which must not carry what was removed from it: the edit
(`edit_file.load_edit` reads it) and, compressed, what rounding lost (`edit_rounding`).
"""

import collections
import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.edits import copy as hf_copy
from jax_surgery.edits import file as edit_file
from jax_surgery.edits import rounding as edit_rounding
from jax_surgery.edits.file import Edit, short
from jax_surgery.edits.rounding import Delta

PIECE = 2**20  # weights that are changed at a time; 8 bytes each for their delta


class Outcome(NamedTuple):
    """What was done to a checkpoint.

    Attributes:
      edit: that was applied, with its result, or undone.
      left_out: what was not copied: further files of weights, which the edit did not
        change, and hidden folders.
    """

    edit: Edit
    left_out: tuple[str, ...]


def _check_shapes(edit: Edit, entries: dict[str, Entry], source: epath.Path) -> None:
    for name, (a, b) in edit.factors.items():
        found, wanted = edit_file.find(entries, name, source), (b.shape[1], len(a))
        if found.shape != wanted:
            raise ValueError(
                f"{name} is {found.shape} in {source}, and the edit is for {wanted}: a "
                "model of another architecture. Use an edit that was made for it."
            )


def _check_base(edit: Edit, source: epath.Path) -> None:
    own = edit_file.fingerprint(source, edit.factors)
    if own.tensors == edit.base.tensors:
        return
    if edit.result and own.tensors == edit.result.tensors:
        raise ValueError(
            f"{source} is what this edit makes (model {short(own.model)}): it has been "
            "applied already. Give the model before it, or roll back first."
        )
    wanted = edit.base.tensors
    name = next(n for n in wanted if own.tensors[n] != wanted[n])
    raise ValueError(
        f"{source} is another model than the edit's: {name} has the hash "
        f"{short(own.tensors[name])}, and the edit is for {short(wanted[name])} (model "
        f"{short(own.model)}, not {short(edit.base.model)}). Give the very checkpoint "
        "that the edit was made for, in its dtype; or, if this is that one with other "
        "edits, roll those back first."
    )


def _check_rollback(file: epath.Path, *folders: epath.Path) -> None:
    if file.exists():
        raise ValueError(
            f"{file} exists, and may be all that undoes another edit; give a new name."
        )
    for folder in folders:
        if file.is_relative_to(folder):
            raise ValueError(
                f"{file} lies in {folder}: who has that model could undo the edit. "
                "Give a file outside of it."
            )


@dataclasses.dataclass
class _Corrections:
    """What rounding lost, on disk until the file that holds it can be written.

    Attributes:
      file: that holds it in the end.
      spool: the compressed pieces, one after another.
      parts: of each tensor, in its order: (bytes of an integer, bytes here).
    """

    file: epath.Path
    spool: BinaryIO
    parts: dict[str, list[tuple[int, int]]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )

    def add(self, name: str, itemsize: int, stored: bytes) -> None:
        self.spool.write(stored)
        self.parts[name].append((itemsize, len(stored)))

    def tensors(self) -> Iterator[np.ndarray]:
        """The pieces of each tensor together, uint8, in the order of `parts`."""
        self.spool.seek(0)
        for parts in self.parts.values():
            count = sum(length for _, length in parts)
            yield np.frombuffer(self.spool.read(count), np.uint8)

    def save(self, edit: Edit) -> None:
        """Writes the rollback's file."""
        factors = edit_file.to_tensors(edit)
        shapes = {name: factor.shape for name, factor in factors.items()}
        kinds = dict.fromkeys(shapes, edit_file.FLOAT)
        for name, parts in self.parts.items():
            shapes[_stored(name)] = (sum(length for _, length in parts),)
            kinds[_stored(name)] = np.dtype(np.uint8)
        rounding = {"piece": PIECE, "parts": self.parts}
        metadata = edit_file.to_metadata(edit) | {"rounding": json.dumps(rounding)}

        def tensors() -> Iterator[np.ndarray]:
            yield from factors.values()
            yield from self.tensors()

        safetensors_file.write(self.file, shapes, kinds, tensors(), metadata)


@contextlib.contextmanager
def _corrections(target: epath.Path | None) -> Iterator[_Corrections | None]:
    """What collects corrections for a file, if there is to be one."""
    if target is None:
        yield None
        return
    with safetensors_file.made(target) as file:
        local = "://" not in str(file)
        # Without a name, on the disk that is written to.
        with tempfile.TemporaryFile(dir=file.parent if local else None) as spool:
            yield _Corrections(file, spool)


def _deltas(edit: Edit) -> Callable[[str], Delta]:
    """An edit's delta by tensor; one at a time is kept, as tensors go one by one."""
    return functools.lru_cache(1)(lambda n: Delta(*edit.factors[n], edit.scale))


def _stored(name: str) -> str:
    return f"{name}.correction"


def apply(
    edit: Edit,
    model_folder: str | epath.Path,
    out_folder: str | epath.Path,
    rollback_file: str | epath.Path | None = None,
) -> Outcome:
    """Writes a checkpoint with an edit applied, and what undoes it.

    Every changed tensor is round(W + scale * (a b)^T) in its dtype, the same bits on
    every machine. Host memory holds the factors and a piece of a tensor. Nothing is
    written where the edit does not fit; what is local appears when all is complete,
    on gs:// config.json and the index come last.

    Args:
      edit: made for this very checkpoint.
      model_folder: a directory in Hugging Face format, local or gs://.
      out_folder: made if absent, else empty.
      rollback_file: for `rollback`, outside both folders; None: none is written.

    Raises:
      FileNotFoundError: no such checkpoint.
      ValueError: another model, the edit applied already, weights that overflow, an
        out_folder that is not empty, or a rollback_file that exists or lies in a model.
    """
    source, target = epath.Path(model_folder), epath.Path(out_folder)
    undo = epath.Path(rollback_file) if rollback_file else None
    hf_copy.check_target(target, source)
    if undo:
        _check_rollback(undo, source, target)
    entries = hf_index.entries_of(source)
    _check_shapes(edit, entries, source)
    _check_base(edit, source)
    delta_of = _deltas(edit)
    # The rollback appears first, so that no edited model is without it.
    with safetensors_file.made(target) as folder, _corrections(undo) as corrections:

        def change(name: str, start: int, rows: np.ndarray) -> np.ndarray:
            delta = delta_of(name).rows(start, start + len(rows))
            edited = edit_rounding.moved(rows, delta)
            if edit_rounding.overflows(rows, edited):
                raise ValueError(
                    f"the edit makes numbers in {name} that {rows.dtype} cannot hold; "
                    "take a smaller scale."
                )
            if corrections:
                corrections.add(name, *edit_rounding.correction(rows, edited, delta))
            return edited

        result = hf_copy.write_weights(
            source, folder, entries, list(edit.factors), change, PIECE
        )
        done = dataclasses.replace(edit, result=result)
        left_out = hf_copy.copy_others(source, folder, entries)
        if corrections:
            corrections.save(done)
        hf_copy.copy_last(source, folder)
    return Outcome(done, left_out)


def _check_edited(edit: Edit, source: epath.Path, file: epath.Path) -> None:
    own = edit_file.fingerprint(source, edit.factors)
    if own.tensors != edit.result.tensors:
        name = next(n for n in own.tensors if own.tensors[n] != edit.result.tensors[n])
        raise ValueError(
            f"{file} belongs to another model: it undoes what made the model "
            f"{short(edit.result.model)}, and {source} is {short(own.model)} ({name} "
            "differs). Undo the last edit first, in the model as it was written (not "
            "trained since, nor saved in another dtype)."
        )


def _restoring(edit: Edit, file: epath.Path) -> tuple[hf_copy.Change, int]:
    """What takes an edit back, and the weights that it takes at a time."""
    entries = safetensors_file.read_header(file)
    metadata = safetensors_file.read_metadata(file)
    if "rounding" not in metadata:
        raise ValueError(
            f"{file} is an edit and knows not what rounding lost when it was applied; "
            "give the rollback.safetensors that was written then."
        )
    rounding = json.loads(metadata["rounding"])
    delta_of = _deltas(edit)

    def pieces(name: str) -> Iterator[tuple[int, bytes]]:
        entry, start = entries[_stored(name)], 0
        for itemsize, length in rounding["parts"][name]:
            raw = safetensors_file.read_rows(entry, start, start + length)
            yield itemsize, raw.tobytes()
            start += length

    left = {name: pieces(name) for name in edit.factors}

    def change(name: str, start: int, rows: np.ndarray) -> np.ndarray:
        delta = delta_of(name).rows(start, start + len(rows))
        return edit_rounding.restored(rows, delta, *next(left[name]))

    return change, rounding["piece"]


def rollback(
    model_folder: str | epath.Path,
    rollback_file: str | epath.Path,
    out_folder: str | epath.Path,
) -> Outcome:
    """Writes a checkpoint as it was before an edit, to the bit.

    Hashes are checked of what is read and of what is written.

    Args:
      model_folder: that `apply` wrote, local or gs://.
      rollback_file: that it wrote then.
      out_folder: made if absent, else empty.

    Raises:
      FileNotFoundError: no checkpoint, or no such file.
      ValueError: another model's rollback, the checkpoint was changed since, or an
        out_folder that is not empty.
    """
    source, target = epath.Path(model_folder), epath.Path(out_folder)
    file = epath.Path(rollback_file)
    hf_copy.check_target(target, source)
    entries = hf_index.entries_of(source)
    edit = edit_file.load_edit(file)
    change, piece = _restoring(edit, file)
    _check_shapes(edit, entries, source)
    _check_edited(edit, source, file)
    with safetensors_file.made(target) as folder:
        before = hf_copy.write_weights(
            source, folder, entries, list(edit.factors), change, piece
        )
        if before.tensors != edit.base.tensors:
            raise ValueError(
                f"what came back has the hash {short(before.model)}, and the model "
                f"before the edit had {short(edit.base.model)}: {file} is broken."
            )
        left_out = hf_copy.copy_others(source, folder, entries)
        hf_copy.copy_last(source, folder)
    return Outcome(edit, left_out)
