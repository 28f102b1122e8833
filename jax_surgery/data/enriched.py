# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: TRY004, a bad row is a ValueError whatever is wrong with it
"""Records with paraphrases and contextual descriptions of what they state.

StableKE (arXiv 2402.13048) trains on both beside a new fact, so that it is known in other
wordings and beside other facts. In a file they stand beside the fields of a record:

    {"question": "Who leads X?", "answer": "Ada", "paraphrases": ["X is led by whom?"],
     "descriptions": ["X was founded in 1990. Its leader is Ada."]}

A paraphrase is another question, prompt or text in the place of the record's own; a
description is a text. Each is a record of its own.
"""

from collections.abc import Mapping
from typing import Any

from jax_surgery.data.forms import FIELDS, Record, parse_record
from jax_surgery.data.turns import string, without_nulls

PARAPHRASES, DESCRIPTIONS = "paraphrases", "descriptions"
ALL_FIELDS = (*FIELDS, PARAPHRASES, DESCRIPTIONS)
# What another wording stands in the place of.
_WORDED = ("question", "prompt", "text")


def parse(row: Any, origin: str) -> list[Record]:
    """A row as its record, and those of its paraphrases and descriptions.

    Raises:
      ValueError: see `forms.parse_record`, or they are no lists of text.
    """
    if not isinstance(row, Mapping) or not {PARAPHRASES, DESCRIPTIONS} & row.keys():
        return [parse_record(row, origin)]
    row = without_nulls(row)
    more = {
        name: _texts(row.get(name, []), name) for name in (PARAPHRASES, DESCRIPTIONS)
    }
    own = {name: value for name, value in row.items() if name not in more}
    found = [parse_record(own, origin)]
    worded = next((name for name in _WORDED if name in own), "")
    if more[PARAPHRASES] and not worded:
        raise ValueError(
            f"{PARAPHRASES} stand beside a question, a prompt or a text; write a chat in "
            "other words as a record of its own"
        )
    for number, text in enumerate(more[PARAPHRASES], start=1):
        where = f"{origin}, paraphrase {number}"
        found.append(parse_record(own | {worded: text}, where))
    for number, text in enumerate(more[DESCRIPTIONS], start=1):
        found.append(parse_record({"text": text}, f"{origin}, description {number}"))
    return found


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of texts, got {type(value).__name__}")
    return [string(text, f"{name}[{i}]") for i, text in enumerate(value)]
