# SPDX-License-Identifier: Apache-2.0
"""General text and prompts, for retained text that the user does not have.

A user's own retain set cannot stand for all that a model knows. This package holds a
small mix of general text of many kinds, and prompts with which a chat model writes
retained text of its own. Its text is read as the data source `general` too.

Origin and licence: every line was written for this project and is under the project's
licence, Apache-2.0. Nothing was copied from other works or data sets. Facts are common
knowledge; people and places of stories, letters and notices are invented. Mixed with
retained text it states facts of its own: passages that tell what is to be forgotten must
be left out.

    passages.jsonl   passages of text, one `{"text": ...}` a line
    questions.txt    questions of general knowledge, one a line, which a model answers
    names.toml       names of what questions are asked about, by kind
    prompts.txt      prompts to write retained text with, one a line
    everyday.txt     prompts that only measure: what is said before and after a run
"""

import functools
import json
import pathlib
import tomllib

_FOLDER = pathlib.Path(__file__).parent
COMMENT = "# "


@functools.cache
def _lines(name: str) -> tuple[str, ...]:
    """The lines of a packaged file without comments and blank ones."""
    lines = (_FOLDER / name).read_text(encoding="utf-8").split("\n")
    return tuple(x for x in lines if x.strip() and not x.startswith(COMMENT))


def passages() -> list[str]:
    """Passages of general text, 60 to 120 words each, in a fixed order.

    Kinds and fields are mixed along the way, so that the first few already differ:
    articles, reports, stories, dialogues, letters, recipes, instructions, reviews, maths,
    code, tables, notices, poems, and some in languages other than English. All were
    written for this project (Apache-2.0).
    """
    return [json.loads(line)["text"] for line in _lines("passages.jsonl")]


def prompts() -> list[str]:
    """Prompts with which a chat model writes retained text of its own, in a fixed order.

    Instructions and questions of many kinds, mixed along the way; none is among
    `everyday_prompts`. All were written for this project (Apache-2.0).
    """
    return list(_lines("prompts.txt"))


def questions() -> list[str]:
    """Questions of general knowledge with a short answer, in a fixed order.

    A model answers them by itself, and is to go on saying the same. Fields are mixed along
    the way; none is among `everyday_prompts`. All were written for this project
    (Apache-2.0).
    """
    return list(_lines("questions.txt"))


@functools.cache
def names() -> dict[str, list[str]]:
    """Names of what questions are asked about, by kind: countries, books, and so on.

    They are common knowledge; the lists were written for this project (Apache-2.0).
    """
    return tomllib.loads((_FOLDER / "names.toml").read_text(encoding="utf-8"))


def everyday_prompts() -> list[str]:
    """The fixed prompts that show a chat model's everyday answers before and after.

    They are for measuring only: nothing may train on them or on answers to them. All were
    written for this project (Apache-2.0).
    """
    return list(_lines("everyday.txt"))


def read() -> list[dict[str, str]]:
    """The records of the data source `general`: `{"text": ...}` a passage."""
    return [{"text": text} for text in passages()]
