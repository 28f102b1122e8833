# SPDX-License-Identifier: Apache-2.0
"""The questions that a config names."""

from jax_surgery.benchmarks import BENCHMARKS, parse
from jax_surgery.data.questions import Question, read_questions

CONTEXT = 256  # tokens; questions are the same in any


def load_questions(source: str) -> tuple[Question, ...]:
    """The questions of `config.data.questions`.

    Args:
      source: a benchmark that has questions, such as "embedded"; a questions JSONL; or
        "" for none.

    Raises:
      FileNotFoundError, ValueError: see `read_questions`, or the benchmark has none.
    """
    if not source:
        return ()
    if source.partition(":")[0] not in BENCHMARKS:
        return tuple(read_questions(source))
    probes = parse(source, "config.data.questions").probes(CONTEXT)
    found = tuple(question for probe in probes for question in probe.questions)
    if not found:
        raise ValueError(
            f"config.data.questions={source!r} has no multiple-choice questions; ask "
            f"it with --config.benchmark={source} of configs/evaluate.py."
        )
    return found
