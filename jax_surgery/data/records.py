# SPDX-License-Identifier: Apache-2.0
"""Reads the texts of a role: JSONL, Hugging Face datasets, TFDS, the benchmark.

A role is a comma-separated list of sources:

    path.jsonl                    one JSON object per line
    hf:NAME[@CONFIG][:SPLIT]      a Hugging Face dataset, or a saved directory
    tfds:NAME[:SPLIT]             a TFDS dataset (SPLIT is "train" where left out), or
                                  a prepared directory
    embedded:NAME                 a set of the embedded benchmark
    paper:NAME                    a set of LLM Surgery's files (see `benchmarks.paper`)
    general                       the packaged general text (see `data.general`)

Rows hold exactly the fields of a record (see `forms`), and perhaps paraphrases and
descriptions (see `enriched`). Of rows that hold more, a
source may say which fields to take, and under which name they stand there:

    path.jsonl#text
    hf:NAME#question+answer
    hf:NAME#prompt=instruction+answer=output
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from jax_surgery.config import names
from jax_surgery.data import enriched, overlap, streams
from jax_surgery.data.enriched import ALL_FIELDS
from jax_surgery.data.forms import Record, hint
from jax_surgery.data.sources import MAX_ERRORS_SHOWN, parse_rows, rows_of


def _selection(source: str) -> tuple[str, dict[str, str]]:
    """The source without "#...", and the field that each of its names stands for."""
    source, mark, selected = source.partition("#")
    if not mark:
        return source, {}
    columns = {}
    for part in selected.split("+"):
        field, _, column = part.partition("=")
        if field not in ALL_FIELDS:
            raise ValueError(
                f"{source}#{selected}: no field {field!r}{hint(field, ALL_FIELDS)}; after # "
                "name the fields to take, e.g. #text or #prompt=instruction+answer."
            )
        columns[field] = column or field
    return source, columns


def _select(row: Any, columns: dict[str, str]) -> Any:
    if not columns or not isinstance(row, dict):
        return row
    return {field: row[column] for field, column in columns.items() if column in row}


def read_source(source: str) -> list[Record]:
    """The records of one source.

    Raises:
      FileNotFoundError: no such file.
      ValueError: malformed rows (the first few by file and line, and their number),
        or no records.
    """
    base, columns = _selection(source)
    parse = lambda row, where: enriched.parse(_select(row, columns), where)
    try:
        records = [*itertools.chain(*parse_rows(rows_of(base), parse, base))]
    except ValueError as error:
        if columns or "unknown field" not in str(error):
            raise
        raise ValueError(
            f"{error}\nTo take only some fields, name them: {base}#text"
        ) from None
    if not records:
        raise ValueError(f"data source {source!r} has no records.")
    return records


def read_role(sources: str, role: str) -> list[Record]:
    """All records of a role's comma-separated sources.

    Raises:
      ValueError: as `read_source`, or no source given.
    """
    given = names(sources)
    if not given:
        raise ValueError(
            f"config.data.{role} is empty; give it sources, e.g. "
            f"--config.data.{role}=texts.jsonl, or its rows 0 to leave the role out."
        )
    return [record for name in given for record in read_source(name)]


def read_streams(sources: str, role: str) -> list[Record]:
    """All records of a role whose sources may have weights (see `data.streams`).

    Raises:
      ValueError: as `read_role`.
    """
    if not streams.weights_of(sources):
        return read_role(sources, role)
    return [
        dataclasses.replace(record, stream=number)
        for number, source in enumerate(names(sources))
        for record in read_source(streams.split(source)[1])
    ]


def check_overlap(
    unlearn: Sequence[Record],
    others: Sequence[Record],
    role: str = "retain",
    tokenizer: Any = None,
) -> None:
    """Refuses what is to be unlearned and has another role too.

    Args:
      role: of the others.
      tokenizer: of the model, where it is loaded (see `overlap.find`).

    Raises:
      ValueError: names the first few pairs, and how many there are.
    """
    refuse_shared(overlap.find_each([unlearn], others, tokenizer)[0], role)


def refuse_shared(both: Sequence[overlap.Shared], role: str) -> None:
    """Raises where some of what is to be unlearned has another role too.

    Raises:
      ValueError: names the first few pairs, and how many there are.
    """
    if both:
        raise ValueError(
            f"{len(both)} texts are in both unlearn and {role}: "
            f"{'; '.join(map(str, both[:MAX_ERRORS_SHOWN]))}. Take them out of one of "
            "the two."
        )
