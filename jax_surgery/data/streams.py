# SPDX-License-Identifier: Apache-2.0
"""Weighted sources: the streams of a role, each with its own weight and sign.

    data.unlearn = "0.1*problematic.jsonl,0.2*obsolete.jsonl"

Where any source of a role has a weight, each source is a stream. A batch has as many rows
of each of them, and the role's term is the sum, over its streams, of weight times the mean
over that stream's own tokens: objective.alpha (0.1 term(problematic) + 0.2 term(obsolete)).
A negative weight turns a stream's term round. Sources beside them that have none weigh 1.
"""

import re

from jax_surgery.config import names

_WEIGHTED = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*(.+)")


def split(source: str) -> tuple[float | None, str]:
    """The weight of a source, None where it has none, and the source without it."""
    matched = _WEIGHTED.fullmatch(source)
    return (float(matched[1]), matched[2]) if matched else (None, source)


def weights_of(sources: str) -> tuple[float, ...]:
    """The weights of a role's streams; () where no source has one."""
    found = [split(source)[0] for source in names(sources)]
    if all(weight is None for weight in found):
        return ()
    return tuple(1.0 if weight is None else weight for weight in found)


def bare(sources: str) -> str:
    """Comma-separated sources without their weights."""
    return ",".join(split(source)[1] for source in names(sources))
