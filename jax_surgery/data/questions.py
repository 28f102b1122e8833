# SPDX-License-Identifier: Apache-2.0
"""Multiple-choice questions: their form, and reading them from JSONL."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Literal

from etils import epath

Wording = Literal["trained", "unseen"]
FIELDS = ("id", "group", "wording", "prompt", "options", "answer")


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
    """

    id: str
    group: str
    wording: Wording
    prompt: str
    options: tuple[str, ...]
    answer: int

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
        if self.wording not in ("trained", "unseen"):
            raise ValueError(
                f"question {self.id!r} has wording={self.wording!r}; use 'trained' or "
                "'unseen'."
            )

    def record(self) -> dict:
        """The question as a JSON object, one line of a questions file."""
        return dataclasses.asdict(self) | {"options": list(self.options)}


def _parse(line: str, where: str) -> Question:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error}).") from None
    if not isinstance(record, dict) or set(record) != set(FIELDS):
        got = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(
            f"{where}: a question has exactly the fields {', '.join(FIELDS)}; got {got}."
        )
    well_typed = (
        all(isinstance(record[k], str) for k in ("id", "group", "wording", "prompt"))
        and isinstance(record["options"], list)
        and all(isinstance(option, str) for option in record["options"])
        and isinstance(record["answer"], int)
    )
    if not well_typed:
        raise ValueError(
            f"{where}: id, group, wording and prompt are strings, options a list of "
            "strings, answer a whole number (the index of the right option)."
        )
    try:
        return Question(**record | {"options": tuple(record["options"])})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def read_questions(path: str) -> list[Question]:
    """Reads a questions file: JSONL, one question per line with the fields above.

    Raises:
      FileNotFoundError: no file at `path`.
      ValueError: a malformed line (file and line number), or no questions.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f"questions file {path!r} does not exist; give a JSONL file, 'embedded' "
            "for the embedded benchmark's questions, or '' for none."
        )
    lines: Iterable[str] = file.read_text().splitlines()
    questions = [
        _parse(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not questions:
        raise ValueError(
            f"questions file {path!r} is empty; it needs a question a line."
        )
    return questions
