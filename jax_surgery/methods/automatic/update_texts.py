# SPDX-License-Identifier: Apache-2.0
"""What is learned of the texts to update."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document, Located, encode, locate
from jax_surgery.methods.automatic import subjects


class Documents(NamedTuple):
    """Texts to update.

    Attributes:
      told: of the user's records, whose answers are learned whole.
      written: of what the model wrote: answers to other wordings; and sentences of which
        the new answer alone is learned: how a sentence goes is the model's own, and the
        answer by itself begins and ends otherwise. Each sentence stands there twice: as an
        answer, and by itself as plain text, so that what is new is learned of its subject
        and not of the wording of a question.
    """

    told: list[Document]
    written: list[Document]


def documents(
    told: Sequence[Record],
    reworded: Sequence[Record],
    sentences: Sequence[Record],
    tokenizer: Any,
    context: int,
) -> Documents:
    """What is learned of records to update.

    Args:
      told: of the user.
      reworded: the same in other words.
      sentences: with the new answers; those of which none is found, or that do not fit
        into a row, are left out.
      context: tokens of a row.
    """
    answers = subjects.shortest_answers(told)
    asked = [subjects.question_of(record) for record in sentences]
    alone = [Record("", r.said.strip(), (), f"{r.origin}, alone") for r in sentences]
    # Several wordings of a question may have the same sentence.
    once = {record.answer: i for i, record in reversed(list(enumerate(alone)))}
    places = sorted(once.values())
    rows = [*sentences, *(alone[i] for i in places)]
    found = []
    for located, question in zip(
        locate(rows, tokenizer) if rows else [],
        [*asked, *(asked[i] for i in places)],
        strict=True,
    ):
        if document := _of_sentence(located, answers.get(question, "")):
            found.append(document)
    fitting = [one for one in found if len(one.tokens) <= context]
    return Documents(
        encode(told, tokenizer, context) if told else [],
        [*(encode(reworded, tokenizer, context) if reworded else []), *fitting],
    )


def _of_sentence(located: Located, answer: str) -> Document | None:
    """The sentence with the tokens of its answer learned; None where it has none."""
    answer, text = answer.strip().rstrip("."), located.rendered.text
    spans = located.rendered.spans
    if not answer or not spans:
        return None
    start = text.find(answer, spans[0].start)
    if start < 0:
        return None
    first, stop = located.spans[:, 0], located.spans[:, 1]
    learned = (stop > start) & (first < start + len(answer)) & (stop > first)
    learned &= located.document.learned
    return dataclasses.replace(located.document, learned=learned)
