# SPDX-License-Identifier: Apache-2.0
"""The words of the embedded world, from `vocabulary.toml`, which says what they are."""

import pathlib
import tomllib

_TABLES = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text())

LAST_NAMES: list[str] = _TABLES["last_names"].split()
FIRST_NAMES, VALUES = (
    {key: words.split() for key, words in _TABLES[name].items()}
    for name in ("first_names", "values")
)
TRAINED: dict[str, list[str]] = _TABLES["trained"]
UNSEEN: dict[str, list[str]] = _TABLES["unseen"]
ATTRIBUTES = tuple(VALUES)
