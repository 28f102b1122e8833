# SPDX-License-Identifier: Apache-2.0
"""Settings from configs: nested plain values become frozen dataclasses.

A config dictionary becomes a dataclass at the boundary, so that a mistyped key or a
value of the wrong type fails at once. The dataclass, beside the code that reads it,
says type, unit and rule of each field; `configs/` gives the values.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from jax_surgery.renamed import RENAMED


def at_least(low: float, section: Any, path: str, *names: str) -> None:
    """Raises ValueError where one of a section's numbers is below `low`."""
    for name in names:
        if (value := getattr(section, name)) < low:
            raise ValueError(f"{path}.{name}={value}; use {low:g} or more.")


def choice(value: str, allowed: tuple[str, ...], path: str) -> None:
    """Raises ValueError where a value is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{path}={value!r}; choose one of {', '.join(allowed)}.")


def positive(value: float, path: str, why: str = "") -> None:
    """Raises ValueError where a number is not above 0."""
    if value <= 0:
        raise ValueError(f"{path}={value} must be positive{why and ': '}{why}.")


def positive_ridge(ridge: float, path: str) -> None:
    """Raises ValueError where a ridge (relative to the mean eigenvalue) is not above 0."""
    why = "without it directions that retained text never uses have no bound"
    positive(ridge, f"{path}.ridge", why)


def renamed(path: str) -> str:
    """The new name of a field of an older version, or why it went; "" if unknown.

    Args:
      path: of the field, "section.field", or of a section that is gone whole.
    """
    inside = [
        f"config.{p}: {now}" for p, now in RENAMED.items() if p.startswith(path + ".")
    ]
    return RENAMED.get(path, "\n  ".join(["", *inside]))


def _convert(value: Any, kind: Any, path: str) -> Any:
    """Checks a leaf's type; whole numbers pass as floats."""
    if typing.get_origin(kind) is typing.Literal:
        kind = str
    if typing.get_origin(kind) is types.UnionType:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(
            f"{path}={value!r} must be of type {kind.__name__}, "
            f"got {type(value).__name__}."
        )
    return value


def _unknown(key: str, fields: Mapping[str, Any], path: str) -> ValueError:
    """The error for a key that a section does not have."""
    within = f"{path}.{key}".removeprefix("config.")
    if now := renamed(within):
        return ValueError(f"{path}.{key} does not exist any more: {now}")
    near = difflib.get_close_matches(key, fields, n=1)
    hint = f"did you mean {path}.{near[0]}? " if near else ""
    return ValueError(
        f"{path}.{key} does not exist; {hint}{path} has: {', '.join(fields)}."
    )


def _with_fixed(
    fixed: Mapping[str, Any], values: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Values of a run with those that its sections always have in it.

    Args:
      fixed: "section.field", whose value no config of the run gives.
      values: of the run's fields.
      path: what errors call the run's settings.

    Raises:
      ValueError: another value is given.
    """
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, value in fixed.items():
        section, _, field = name.partition(".")
        inner = found.get(section)
        if not isinstance(inner, dict) or inner.setdefault(field, value) == value:
            continue  # a section that is missing or no section has an error of its own
        if now := renamed(name):
            raise ValueError(f"{path}.{name} does not exist any more: {now}")
        raise ValueError(
            f"{path}.{name}={inner[field]!r} is no field of this run; it is always "
            f"{value!r} there."
        )
    return found


def build(cls: type, values: Mapping[str, Any], path: str = "config") -> Any:
    """A settings dataclass from nested plain values.

    Args:
      cls: the dataclass; its fields are leaves or further settings dataclasses. Its
        `FIXED`, where it has one, holds values that no config gives ("section.field").
      values: its fields' values; sections are mappings.
      path: the section's name in errors.

    Raises:
      ValueError: an unknown key (with the nearest valid one), a field that is not
        given and has no default, or a wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    values = _with_fixed(getattr(cls, "FIXED", {}), values, path)
    result = {}
    for key, value in values.items():
        if key not in fields:
            raise _unknown(key, fields, path)
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise ValueError(f"{path}.{key}={value!r} must be a section of fields.")
            result[key] = build(kind, value, f"{path}.{key}")
        else:
            result[key] = _convert(value, kind, f"{path}.{key}")
    needed = [name for name, field in fields.items() if is_needed(field)]
    if missing := [name for name in needed if name not in result]:
        raise ValueError(
            f"{path}.{missing[0]} is not given; begin with a config of configs/, which "
            f"gives every field, and change what differs."
        )
    return cls(**result)


def is_needed(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
