# SPDX-License-Identifier: Apache-2.0
"""Settings from configs: nested plain values become frozen dataclasses.

A config dictionary becomes a dataclass at the boundary, so that a mistyped key or a
value of the wrong type fails at once. The dataclass, beside the code that reads it,
says type, unit and rule of each field; `configs/` gives the values.
"""

import contextlib
import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jax_surgery.renamed import RENAMED, nearest


def at_least(low: float, section: Any, path: str, *names: str) -> None:
    """Raises ValueError where one of a section's numbers is below `low`."""
    for name in names:
        if not (value := getattr(section, name)) >= low:  # NaN is not
            raise ValueError(f"{path}.{name}={value}; use {low:g} or more.")


def choice(value: str, allowed: tuple[str, ...], path: str) -> None:
    """Raises ValueError where a value is none of those allowed."""
    if value not in allowed:
        named = ", ".join(one or "''" for one in allowed)
        raise ValueError(f"{path}={short(value)}; choose one of {named}.")


def names(text: str, separator: str = ",") -> list[str]:
    """What a text lists, without spaces around it and without what is empty."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def positive(value: float, path: str, why: str = "") -> None:
    """Raises ValueError where a number is not above 0."""
    if not value > 0:  # NaN is not
        raise ValueError(f"{path}={value} must be positive{why and ': '}{why}.")


def check_seed(value: int, path: str = "config.seed") -> None:
    """Raises ValueError for a seed that random numbers cannot begin with.

    JAX takes the lowest 32 bits alone, so that larger seeds would silently be others.
    """
    if not 0 <= value < 2**32:
        raise ValueError(f"{path}={short(value)}; use 0 to {2**32 - 1}.")


def short(value: object, longest: int = 60) -> str:
    """A value as an error shows it: the start of one that is very long."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} long)"


def check_finite(value: Any, path: str) -> None:
    """Raises ValueError for what no field can be: NaN, an infinite number or one
    beyond 64 bits, or text that no file can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}={value} must be a finite number.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{path}={short(value)} does not fit 64 bits; use less.")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{path}={short(value)} holds a zero byte; leave it out.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path}={short(value)} must be valid UTF-8.") from None


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
    """Checks a leaf's type, and that it is allowed; whole numbers pass as floats."""
    check_finite(value, path)
    if typing.get_origin(kind) is typing.Literal:
        choice(value, typing.get_args(kind), path)
        return value
    if typing.get_origin(kind) is types.UnionType:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(
            f"{path}={short(value)} must be of type {kind.__name__}, "
            f"got {type(value).__name__}."
        )
    return value


def _unknown(key: str, fields: Mapping[str, Any], path: str) -> ValueError:
    """The error for a key that a section does not have."""
    # Of a run that is a section of another run, the field's own name is its end.
    parts = f"{path}.{key}".split(".")[1:]
    if now := renamed(".".join(parts[-2:])) or renamed(key):
        return ValueError(f"{path}.{key} does not exist any more: {now}")
    near = nearest(key, fields)
    hint = f"did you mean {path}.{near}? " if near else ""
    has = f"has: {', '.join(fields)}" if fields else "is no section"
    return ValueError(f"{path}.{key} does not exist; {hint}{path} {has}.")


def build(
    cls: type,
    values: Mapping[str, Any],
    path: str = "config",
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """A settings dataclass from nested plain values.

    Args:
      cls: the dataclass; its fields are leaves or further settings dataclasses. Its
        `FIXED`, where it has one, holds fields of its sections that no config gives,
        with their values: {"section": {"field": value}}.
      values: its fields' values; sections are mappings.
      path: the section's name in errors.
      fixed: such fields of this section.

    Raises:
      ValueError: an unknown key (with the nearest valid one), a field that is not
        given and has no default, or a wrong type.
    """
    fixed = fixed or {}
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in fixed}
    kinds = typing.get_type_hints(cls)
    inner = getattr(cls, "FIXED", {})
    result = dict(fixed)
    for key, value in values.items():
        if key in fixed and fixed[key] == value:
            continue  # of settings that were built before
        if key not in fields:
            raise _unknown(key, fields, path)
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise ValueError(f"{path}.{key}={value!r} must be a section of fields.")
            # A section with a field `run` is a run.
            is_run = "run" in kind.__dataclass_fields__
            with section(key, kind) if is_run else contextlib.nullcontext():
                result[key] = build(kind, value, f"{path}.{key}", inner.get(key))
        elif isinstance(value, Mapping) and value:  # a section of older versions
            raise _unknown(next(iter(value)), {}, f"{path}.{key}")
        else:
            result[key] = _convert(value, kind, f"{path}.{key}")
    needed = [name for name, field in fields.items() if is_needed(field)]
    if missing := [name for name in needed if name not in result]:
        raise ValueError(
            f"{path}.{missing[0]} is not given; begin with a config of configs/, which "
            f"gives every field, and change what differs."
        )
    return cls(**result)


@contextlib.contextmanager
def section(name: str, cls: type) -> Iterator[None]:
    """Errors inside name fields of a run that is a section of another run as what they
    are there: config.steps is config.surgery.steps, say.

    Args:
      name: of the section.
      cls: its settings.
    """
    names = "|".join(field.name for field in dataclasses.fields(cls))
    own = re.compile(rf"\bconfig\.(?=({names})\b)")
    try:
        yield
    except Exception as error:
        error.args = tuple(
            own.sub(f"config.{name}.", arg) if isinstance(arg, str) else arg
            for arg in error.args
        )
        raise


def is_needed(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
