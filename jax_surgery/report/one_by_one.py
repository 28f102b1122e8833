# SPDX-License-Identifier: Apache-2.0
"""What a run's models scored one by one, in DIR/answers.jsonl: a line for each question or
text and metric, with its value before and after. Runs that were asked the same are compared
with it in pairs (`report.pairs`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from jax_surgery.parallel import distributed
from jax_surgery.storage import files

ANSWERS_FILE = "answers.jsonl"


class Answer(NamedTuple):
    """The value of a question or text after a run, and what it is about."""

    value: float
    about: str


# By group, metric and id.
Answers = Mapping[tuple[str, str, str], Answer]


def write(
    directory: str,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> None:
    """Writes what was scored before and after; for every process, of which the lead writes.

    Args:
      before, after: the same things in the same order, each {"group", "metric", "id",
        "about", "value"}.
    """
    if not after or not distributed.is_lead():
        return
    keys = ("group", "metric", "id", "about")
    lines = (
        {key: new[key] for key in keys}
        | {"before": old["value"], "after": new["value"]}
        for old, new in zip(before, after, strict=True)
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    files.write_text(epath.Path(directory) / ANSWERS_FILE, text)


def read(workdir: str) -> Answers:
    """What was scored after a run; {} where it has no such file.

    Raises:
      ValueError: the file is damaged.
    """
    file = epath.Path(workdir) / ANSWERS_FILE
    if not file.exists():
        return {}
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {
            (row["group"], row["metric"], row["id"]): Answer(
                float(row["after"]), row["about"]
            )
            for row in rows
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}), so {workdir} cannot be compared in pairs. "
            "Remove the file to compare without pairs, or run it again."
        ) from error
