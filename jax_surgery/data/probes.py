# SPDX-License-Identifier: Apache-2.0
"""Probes: what a model is asked about a group of text."""

import dataclasses
from typing import Any, Literal

from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Role
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.questions import Question
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode, without_end


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Questions or text, and how they are read.

    Attributes:
      group: what it asks about, e.g. "forget".
      context: tokens a row; questions must fit, longer texts are split.
      questions: multiple choice.
      records: text, tokenised with the model's own tokenizer.
      documents: text that is tokenised already; read in the place of `records`.
      metrics: names in `metrics.METRICS` of what is measured.
      comparisons: names in `metrics.COMPARISONS` of what is measured beside another model.
      cases: of each question, and of each record, what it is averaged with, from the
        outside in, e.g. (request, kind of prompt); () where each counts by itself.
      others: text like the records that the model has not read, for membership inference.
      role: what should happen to what is asked, of a probe that is not named as a group;
        "" is the group's.
      known_chance: the score of a model that does not know the group, where it is known.
      ends: whether the end of a text (eos, or what closes a turn) is one of the tokens
        that are asked.
      chat: whether questions are asked in the model's chat template.
      samples: answers that are drawn for each prompt, by metrics that draw some.
    """

    group: str
    context: int
    questions: tuple[Question, ...] = ()
    records: tuple[Record, ...] = ()
    documents: tuple[Document, ...] = ()
    metrics: tuple[str, ...] = ()
    comparisons: tuple[str, ...] = ()
    cases: tuple[tuple[str, ...], ...] = ()
    others: tuple[Record, ...] = ()
    role: Role | Literal[""] = ""
    known_chance: float | None = None
    ends: bool = True
    chat: AsChat = "auto"
    samples: int = 10

    @property
    def chance(self) -> float | None:
        """The score of a model that does not know the group; None if not known.

        Of questions it is the mean over them of 1 / options.
        """
        if self.questions:
            return sum(1 / len(q.options) for q in self.questions) / len(self.questions)
        return self.known_chance

    def encoded(self, tokenizer: Any) -> "Probe":
        """The probe with its text as documents of at most `context` tokens.

        Raises:
          ValueError: see `tokens.encode`.
        """
        if self.documents or not self.records:
            return self
        found = encode(self.records, tokenizer, self.context)
        if not self.ends:
            ends = end_tokens(tokenizer)
            found = [without_end(document, ends) for document in found]
        return dataclasses.replace(self, documents=tuple(found))

    def first(self, limit: int | None) -> "Probe":
        """The probe with `limit` questions or texts at most, the first; None takes all."""
        return dataclasses.replace(
            self,
            questions=self.questions[:limit],
            records=self.records[:limit],
            documents=self.documents[:limit],
            cases=self.cases[:limit],
            others=self.others[:limit],
        )
