# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: text by group, what is asked of it, and the models that know it.

Importing this package makes their sets readable as data sources (`embedded:NAME`,
`suite:TASK[:SPLIT]`).
"""

from collections.abc import Iterator
from typing import Any

from jax_surgery.benchmarks import embedded, suite
from jax_surgery.data import sources

MODELS = {"embedded": embedded.MODEL, "suite": suite.MODEL}


def model_source(name: str) -> str:
    """The directory or hub name of `config.model`."""
    return str(MODELS.get(name, name))


def _reader(kind: str, load: Any) -> sources.Reader:
    def read(name: str) -> Iterator[tuple[str, Any]]:
        for number, row in enumerate(load(name), start=1):
            yield f"{kind}:{name}:{number}", row

    return read


for kind, benchmark in (("embedded", embedded), ("suite", suite)):
    sources.READERS[kind] = _reader(kind, benchmark.load)
sources.TFDS_BUILDERS["embedded_world"] = "jax_surgery.benchmarks.embedded.builder"
