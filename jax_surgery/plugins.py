# SPDX-License-Identifier: Apache-2.0
"""Plug-ins by name: how a config names a method, a benchmark or an attack.

Each kind of plug-in is a table from names to frozen dataclasses, whose fields are the
member's options. "NAME" takes a member as it is, "NAME:FIELD=VALUE,FIELD=VALUE" with
options. A member from outside the package is named by "MODULE.CLASS", such as
"my_package.my_file.MyAttack".
"""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from typing import Any

from jax_surgery.config import check_finite, names, short
from jax_surgery.renamed import nearest

# Elements of an option that is a tuple are joined by this, e.g. steps=5+10+20.
SEPARATOR = "+"


def parse(spec: str, table: Mapping[str, Any], path: str) -> Any:
    """The member of a table that a text names, with its options.

    Args:
      spec: "NAME" or "NAME:FIELD=VALUE,FIELD=VALUE".
      table: dataclasses by name.
      path: the config field that holds the text, e.g. "config.attack".

    Raises:
      ValueError: an unknown name or option, or a value of the wrong type or beyond what
        the member allows.
    """
    name, _, options = spec.partition(":")
    member = find(name.strip(), table, path)
    if not (isinstance(member, type) and dataclasses.is_dataclass(member)):
        raise ValueError(f"{path}={spec!r} is no plug-in, which is a dataclass.")
    kinds = typing.get_type_hints(member)
    fields = {f.name: kinds[f.name] for f in dataclasses.fields(member) if f.init}
    values: dict[str, Any] = {}
    for option in names(options):
        key, equals, text = map(str.strip, option.partition("="))
        if not equals:
            raise ValueError(
                f"{path}={spec!r}: the option {option!r} has no value; write it as "
                f"FIELD=VALUE, e.g. {name}:{next(iter(fields), 'FIELD')}=VALUE."
            )
        if key not in fields:
            has = f"has: {', '.join(fields)}" if fields else "has no options"
            raise ValueError(
                f"{path}={spec!r}: {name} has no option {key!r};"
                f"{_hint(key, fields)} {name} {has}."
            )
        values[key] = _converted(text, fields[key], f"{path}={spec!r}: {key}")
    try:
        return member(**values)
    except TypeError as error:  # an option without a default was left out
        raise ValueError(f"{path}={spec!r}: {error}.") from None


def find(name: str, table: Mapping[str, Any], path: str) -> Any:
    """The member that a name stands for in a table, or in the module it names.

    Raises:
      ValueError: there is none.
    """
    if name in table:
        return table[name]
    module, _, attribute = name.rpartition(".")
    if module and all(part.isidentifier() for part in name.split(".")):
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # modules of users raise what they like
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"{path}={name!r} names no member of a module: "
                f"{type(error).__name__}: {said}."
            ) from error
    raise ValueError(
        f"{path}={name!r} is not known;{_hint(name, table)} choose one of "
        f"{', '.join(table)}, or MODULE.NAME of your own."
    )


def _hint(name: str, known: Mapping[str, Any]) -> str:
    near = nearest(name, known)
    return f" did you mean {near!r}?" if near else ""


def _converted(text: str, kind: Any, where: str) -> Any:
    """A text as a value of a field's type."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_converted(t, inner, where) for t in text.split(SEPARATOR) if t)
    if typing.get_origin(kind) is typing.Literal:
        known = typing.get_args(kind)
        if text not in known:
            raise ValueError(f"{where}={text!r}; use one of {', '.join(known)}.")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where}={text!r} must be true or false.")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(
            f"{where}={short(text)} must be of type {kind.__name__}."
        ) from None
    check_finite(value, where)
    return value
