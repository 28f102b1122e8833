# SPDX-License-Identifier: Apache-2.0
"""The questions that a config names."""

from jax_surgery.benchmarks import embedded as benchmark
from jax_surgery.data.questions import Question, read_questions


def load_questions(source: str) -> tuple[Question, ...]:
    """The questions of `config.data.questions`.

    Args:
      source: "embedded", a questions JSONL, or "" for none.

    Raises:
      FileNotFoundError, ValueError: see `read_questions`.
    """
    if not source:
        return ()
    if source == "embedded":
        return benchmark.questions()
    return tuple(read_questions(source))
