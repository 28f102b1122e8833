# SPDX-License-Identifier: Apache-2.0
"""Edits made from other edits: one scaled, or several combined into one."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_surgery.edits import edit_file
from jax_surgery.edits.edit_file import Edit, Fingerprint, short


def scaled(edit: Edit, factor: float) -> Edit:
    """The same edit with its change multiplied by a factor; -1 reverses it.

    Raises:
      ValueError: the factor is not finite.
    """
    return dataclasses.replace(edit, scale=edit.scale * factor, result=None)


def _common_base(edits: Sequence[Edit]) -> Fingerprint:
    """The model that several edits apply to together.

    Either all edits were made for this model, or each one was made for the model that
    the edit before it produced; then it is the model of the first.

    Raises:
      ValueError: an edit was made for neither the common model nor the result of the
        edits before it.
    """
    base: dict[str, str] = {}
    made: dict[str, str | None] = {}  # hashes after the edits so far; None: unknown
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
    result = made[name]
    after = f"the hash {short(result)}" if result else "an unknown hash"
    return (
        f"edit {place + 1} was made for the model {short(edit.base.model)}, which is "
        "neither the model of the edits before it nor the model that they produce: "
        f"{name} has the hash {short(own[name])} in its model, {short(base[name])} in "
        f"theirs, and {after} after them. Compose edits that were made for one model, "
        "or a chain in which each edit was made for the result of the one before (use "
        "the edit.safetensors that applying an edit writes: it records the result)."
    )


def _folded(b: np.ndarray, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # Edit() checks that b is finite
        return (b * np.float64(scale)).astype(edit_file.FLOAT)


def compose(edits: Sequence[Edit], rank: int = 0) -> Edit:
    """One edit that makes the same change as several edits together.

    Args:
      edits: made for one model, or each for the result of the one before.
      rank: the highest rank of each matrix's change, which becomes its best
        approximation of that rank; 0 keeps the change exact, and ranks add up.

    Raises:
      ValueError: no edits, edits of unrelated models, or a negative rank.
    """
    if not edits or rank < 0:
        raise ValueError(
            f"{len(edits)} edits, rank {rank}: give at least one edit, and a rank of 1 "
            "or more, or 0 to keep the exact change."
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
