# SPDX-License-Identifier: Apache-2.0
"""Edits made of edits: scaled, and several as one."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_surgery.edits import file as edit_file
from jax_surgery.edits.file import Edit, Fingerprint, short


def scaled(edit: Edit, factor: float) -> Edit:
    """An edit that changes as much times a factor; -1 turns it round.

    Raises:
      ValueError: a factor that is not finite.
    """
    return dataclasses.replace(edit, scale=edit.scale * factor, result=None)


def _common_base(edits: Sequence[Edit]) -> Fingerprint:
    """The model that edits belong to: all of them, or the first of a chain.

    Raises:
      ValueError: an edit fits neither the model of those before nor what they make.
    """
    base: dict[str, str] = {}
    made: dict[str, str | None] = {}  # by the edits so far; None: not known
    for place, edit in enumerate(edits):
        own = edit.base.tensors
        both = [name for name in own if name in base]
        follows = all(own[name] == made[name] for name in both)
        beside = all(own[name] == base[name] for name in both)
        if not (follows or beside):
            raise ValueError(_misfit(place, edit, base, made))
        result = edit.result.tensors if edit.result else {}
        for name in own:
            base.setdefault(name, own[name])
            alone = follows or name not in both
            made[name] = result.get(name) if alone else None
    return Fingerprint(base)


def _misfit(
    place: int, edit: Edit, base: dict[str, str], made: dict[str, str | None]
) -> str:
    own = edit.base.tensors
    both = [name for name in own if name in base]
    name = next((n for n in both if own[n] not in (base[n], made[n])), both[0])
    after = short(made[name]) if made[name] else "not known"
    return (
        f"edit {place + 1} (for a model {short(edit.base.model)}) fits neither the model "
        f"of those before it nor what they make of it: {name} has the hash "
        f"{short(own[name])} in its model, {short(base[name])} in theirs, and is "
        f"{after} after them. Compose edits of one model, or each of the model that "
        "the one before made (the edit.safetensors that applying it wrote knows which)."
    )


def _folded(b: np.ndarray, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # an edit refuses what is not finite
        return (b * np.float64(scale)).astype(edit_file.FLOAT)


def compose(edits: Sequence[Edit], rank: int = 0) -> Edit:
    """One edit that changes as much as several together.

    Args:
      edits: all of one model, or each of the model that the one before made.
      rank: at most so much is kept of each matrix (its nearest of that rank); 0 keeps
        all: ranks add up.

    Raises:
      ValueError: no edits, edits of different models, or another rank.
    """
    if not edits or rank < 0:
        raise ValueError(
            f"{len(edits)} edits, rank {rank}: give one edit or more, and a rank of 1 "
            "or more, or 0 for all of it."
        )
    base = _common_base(edits)
    factors = {}
    for name in base.tensors:
        pairs = [(e.factors[name], e.scale) for e in edits if name in e.factors]
        a = np.concatenate([a for (a, _), _ in pairs], axis=1)
        b = np.concatenate([_folded(b, scale) for (_, b), scale in pairs])
        factors[name] = edit_file.truncated(a, b, rank) if rank else (a, b)
    parts = [
        {
            "factors": edit.digest,
            "scale": edit.scale,
            "base": edit.base.model,
            "provenance": edit.provenance,
        }
        for edit in edits
    ]
    return Edit(factors, 1.0, base, {"composed of": parts, "rank": rank})
