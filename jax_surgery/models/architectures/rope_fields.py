# SPDX-License-Identifier: Apache-2.0
"""The fields of a `config.json` that say how positions are rotated, in all spellings."""

import dataclasses
import math
from typing import Any

from jax_surgery.models.rope import SCALINGS, Scaling

THETA = 10000.0  # where no field says otherwise


def positive_number(
    name: str, value: Any, least: float = 0.0, *, zero: bool = False
) -> float:
    """A field's value as a number; ValueError where it is none, or `least` or less.

    Args:
      zero: whether 0 is allowed, and nothing below it.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    low = not number or (value < 0 if zero else value <= least)
    if low or not math.isfinite(value):
        bound = "of 0 or more" if zero else f"above {least:g}"
        raise ValueError(
            f"config.json has {name}={value!r}; it must be a number {bound}."
        )
    return float(value)


def read_rope(raw: dict[str, Any]) -> tuple[float, Scaling | None]:
    """The base of the frequencies, and their scaling.

    As `transformers` reads them: `rope_scaling` where it has fields, else
    `rope_parameters`; the base from there, else from `rope_theta` beside it.

    Raises:
      ValueError: a kind of scaling that is not supported, or fields of it are missing or
        no numbers.
    """
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    fields = raw.get(name) or {}
    nested = not isinstance(fields, dict) or any(
        isinstance(value, dict) for value in fields.values()
    )
    if nested:
        raise ValueError(
            f"config.json has {name}={fields!r}; one set of fields for all layers is "
            "supported."
        )
    theta = fields.get("rope_theta")
    theta = raw.get("rope_theta") if theta is None else theta
    theta = positive_number("rope_theta", THETA if theta is None else theta, 1.0)
    for part in (fields, raw):
        if part.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise ValueError(
                f"config.json has partial_rotary_factor={part['partial_rotary_factor']!r}"
                "; only 1.0 is supported."
            )
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind == "default":
        return theta, None
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ValueError(
            f"rope type {kind!r} is not supported; 'default', "
            f"{', '.join(map(repr, SCALINGS))} are."
        )
    return theta, _read_scaling(kind, fields, raw)


def _is_zero(value: Any) -> bool:
    return type(value) in (int, float) and value == 0


def _read_scaling(kind: str, fields: dict[str, Any], raw: dict[str, Any]) -> Scaling:
    known = {field.name: field for field in dataclasses.fields(SCALINGS[kind])}
    original = "original_max_position_embeddings"
    given = {n: fields[n] for n in known if fields.get(n) is not None}
    if original in known:
        # The field beside the others wins, and without any the model's own counts.
        beside = raw.get(original) or raw["max_position_embeddings"]
        given[original] = raw.get(original) or given.get(original, beside)
    # Where one of these is 0 `transformers` takes neither.
    unused = [n for n in ("mscale", "mscale_all_dim") if _is_zero(given.get(n))]
    given = {n: value for n, value in given.items() if n not in unused}
    needed = [n for n, f in known.items() if f.default is dataclasses.MISSING]
    if missing := [n for n in needed if n not in given]:
        raise ValueError(f"{kind} rope scaling lacks {', '.join(missing)}.")
    for name, value in given.items():
        if name == "truncate":
            if type(value) is not bool:
                raise ValueError(
                    f"config.json has truncate={value!r} of rope scaling; it must be "
                    "true or false."
                )
            continue
        number = positive_number(f"{kind} rope scaling's {name}", value)
        given[name] = int(number) if name == original else number
    return SCALINGS[kind](**given)


def write_rope(scaling: Scaling) -> dict[str, Any]:
    """The `rope_scaling` of a `config.json`."""
    given = {n: v for n, v in vars(scaling).items() if v is not None}
    return {"rope_type": scaling.rope_type, **given}
