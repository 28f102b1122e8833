# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice questions: their form, and reading them from JSONL."""

import dataclasses
import typing
from typing import Any, Literal

from jax_surgery.data.sources import parse_rows, read_jsonl

Wording = Literal["trained", "unseen"]
Scoring = Literal["sum", "perplexity"]
FIELDS = ("id", "group", "wording", "prompt", "options", "answer")
OPTIONAL = ("about", "scoring")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with options of which exactly one is right.

    An option's text is appended to the prompt as it stands, so options begin
    with a space where the text needs one.

    Attributes:
      id: unique name of the question.
      group: what it asks about, e.g. "obsolete", "update" or "retain".
      wording: "trained" where the prompt's wording occurs in training text,
        "unseen" where it never does.
      prompt: text before the option.
      options: the candidate continuations.
      answer: index of the right option.
      scoring: which option is chosen: that of the highest sum of its tokens'
        log-probabilities, or of the lowest perplexity, their mean.
      about: the person or thing that it is about; questions about the same one are right
        or wrong together, and intervals are of such that are drawn. "" is itself alone.
    """

    id: str
    group: str
    wording: Wording
    prompt: str
    options: tuple[str, ...]
    answer: int
    scoring: Scoring = "sum"
    about: str = ""

    def __post_init__(self):
        if len(self.options) < 2 or len(set(self.options)) != len(self.options):
            raise ValueError(
                f"question {self.id!r} has options {list(self.options)}; it needs at "
                "least two, all different."
            )
        if not 0 <= self.answer < len(self.options):
            raise ValueError(
                f"question {self.id!r} has answer={self.answer}; it must be an index "
                f"into its {len(self.options)} options (0 to {len(self.options) - 1})."
            )
        for field in ("id", "group"):
            if not (value := getattr(self, field)).isprintable():
                raise ValueError(
                    f"question {self.id!r} has {field}={value!r}, which "
                    "must be printable."
                )
        if self.scoring not in typing.get_args(Scoring):
            raise ValueError(
                f"question {self.id!r} has scoring={self.scoring!r}; use 'sum' or "
                "'perplexity'."
            )
        if self.wording not in ("trained", "unseen"):
            raise ValueError(
                f"question {self.id!r} has wording={self.wording!r}; use 'trained' or "
                "'unseen'."
            )

    def record(self) -> dict:
        """The question as a JSON object, one line of a questions file."""
        row = dataclasses.asdict(self) | {"options": list(self.options)}
        for field, absent in (("scoring", "sum"), ("about", "")):
            if row[field] == absent:
                del row[field]
        return row


def _parse(row: Any, where: str) -> Question:
    del where  # errors are given it by `parse_rows`
    if not isinstance(row, dict) or set(row) - {*OPTIONAL} != set(FIELDS):
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(
            f"a question has exactly the fields {', '.join(FIELDS)}, and may have "
            f"{' and '.join(OPTIONAL)}; got {got}."
        )
    well_typed = (
        all(isinstance(row[k], str) for k in ("id", "group", "wording", "prompt"))
        and all(isinstance(row.get(k, ""), str) for k in OPTIONAL)
        and isinstance(row["options"], list)
        and all(isinstance(option, str) for option in row["options"])
        and isinstance(row["answer"], int)
    )
    if not well_typed:
        raise ValueError(
            "id, group, wording, prompt, scoring and about are strings, options a list of strings, "
            "answer a whole number (the index of the right option)."
        )
    return Question(**row | {"options": tuple(row["options"])})


def read_questions(path: str) -> tuple[Question, ...]:
    """Reads a questions file: JSONL, one question per line with the fields above.

    Raises:
      FileNotFoundError: no file at `path`.
      ValueError: malformed lines (file and line number), or no questions.
    """
    lines = read_jsonl(
        path,
        f"questions file {path!r} does not exist; give a JSONL file, 'embedded' for the "
        "embedded benchmark's questions, or '' for none.",
    )
    questions = parse_rows(lines, _parse, path)
    if not questions:
        raise ValueError(
            f"questions file {path!r} is empty; it needs a question a line."
        )
    return tuple(questions)
