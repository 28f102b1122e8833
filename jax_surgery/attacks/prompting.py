# SPDX-License-Identifier: Apache-2.0
"""What is asked, put in another way: probes whose prompts an attack rewrites."""

import dataclasses
from collections.abc import Callable

from jax_surgery.data import prompts
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import encode_whole
from jax_surgery.models.model import Model

STEP = 64  # tokens, that rows grow by


def rewritten(
    probe: Probe,
    model: Model,
    of_question: Callable[[Question], Question],
    of_record: Callable[[Record], Record],
) -> Probe:
    """The probe with its questions and records rewritten, in rows that hold them.

    Args:
      model: whose tokenizer counts what is added.
    """
    questions = tuple(map(of_question, probe.questions))
    records = tuple(map(of_record, probe.records))
    more = max(
        (
            _count(new.prompt + new.options[0], model)
            - _count(old.prompt + old.options[0], model)
            for old, new in zip(probe.questions, questions, strict=True)
        ),
        default=0,
    )
    lengths = (len(d.tokens) for d in encode_whole(records, model.tokenizer))
    longest = max((probe.context + max(more, 0), *lengths))
    grown = probe.context
    if longest > grown:
        grown = -(-longest // STEP) * STEP
    # Documents would be read in the place of the records.
    documents = () if records else probe.documents
    return dataclasses.replace(
        probe,
        questions=questions,
        records=records,
        documents=documents,
        context=grown,
    )


def _count(text: str, model: Model) -> int:
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def plain(record: Record, model: Model) -> Record:
    """The record as a prompt that is written out, the template's marks in it, and the
    last answer that follows it."""
    rendered = prompts.render(record, model.tokenizer)
    start, end, _ = rendered.spans[-1]
    return Record(rendered.text[:start], rendered.text[start:end], (), record.origin)
