# SPDX-License-Identifier: Apache-2.0
"""Asks a model in its own words before and after a run on texts by role.

Prompts are gathered once, from the records of the run, its questions file, what the
caller holds out, and the packaged everyday prompts.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jax_surgery.data import alternatives, asked, general, prompts, template_marks
from jax_surgery.data.alternatives import Choice
from jax_surgery.data.asked import Asked, Kind, Pairs
from jax_surgery.data.forms import Record
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.questions import Question
from jax_surgery.metrics import free_form, likely_answers
from jax_surgery.metrics.free_form import Observed
from jax_surgery.models.model import Model

AUTO = 64  # prompts of a group, where a config leaves it open
CHOICES = 12  # questions of a group that are asked with alternatives, at most
ATTACKED = 48  # of a group that attacks ask, at most
REMOVED = ("unlearn", "unlearn, other wordings")
NO_QUESTIONS: Pairs = {}


def prompts_a_group(chosen: int, tokenizer: Any) -> int:
    """How many prompts of a group are asked.

    Args:
      chosen: `config.free_form`; below 0 asks `AUTO` of a model whose chat template is
        its own, and no other: models that are trained here have read plain text.
    """
    if chosen >= 0:
        return chosen
    return AUTO if speaks(tokenizer) else 0


def speaks(tokenizer: Any) -> bool:
    """Whether a model answers as a chat model does."""
    there = template_marks.has_template(tokenizer)
    return there and not template_marks.is_stand_in(tokenizer)


class FreeForm:
    """What a model is asked; the replies of a model are an `Observed`."""

    def __init__(
        self,
        model: Model,
        by_role: Mapping[str, Sequence[Record]],
        questions: Sequence[Question],
        *,
        most: int,
        chat: AsChat,
        seed: int,
        held_out: Pairs = NO_QUESTIONS,
        own: Mapping[str, Sequence[Record]] | None = None,
        texts: Mapping[str, Sequence[Record]] | None = None,
        reworded: Mapping[Kind, Sequence[Record]] | None = None,
    ):
        """Gathers all prompts.

        Args:
          model: before the run, which says what wrong answers are likely.
          by_role: the run's records.
          questions: of its questions file.
          most: prompts of a group.
          chat: whether questions are asked in the chat template.
          seed: of what is drawn.
          held_out: questions and answers by group, of which nothing is trained on.
          own: the same with the answers that the model itself wrote.
          texts: further texts that the run must not change, by name.
          reworded: by role, questions of its facts in other words.
        """
        tokenizer = model.tokenizer
        speaking = speaks(tokenizer)
        self.asked: list[Asked] = asked.gather(
            by_role,
            questions,
            held_out,
            general.everyday_prompts()[:most] if speaking else (),
            tokenizer,
            as_chat=prompts.asks_as_chat(tokenizer, chat),
            most=most,
            seed=seed,
            own=own,
            reworded=reworded,
        )
        # Of a questions file the alternatives are its own.
        groups = ("unlearn", "update", *held_out, *(own or ()))
        # What attacks ask: all of what was to go that has alternatives.
        counts = dict.fromkeys(groups, CHOICES) | dict.fromkeys(REMOVED, ATTACKED)
        counts = {group: min(most, count) for group, count in counts.items()}
        ranks = functools.partial(likely_answers.ranks, model)
        found = alternatives.choices(self.asked, counts, general.names(), ranks)
        self.removed = [choice for choice in found if choice.group in REMOVED]
        of = {g: [choice for choice in found if choice.group == g] for g in groups}
        self.choices: list[Choice] = [c for own in of.values() for c in own[:CHOICES]]
        # Of words in sentences a model that knows a few words alone knows nothing.
        general_text = {"general": asked.measured_passages()} if speaking else {}
        self._texts = general_text | dict(texts or {})
        self._one_line = not speaking

    def observe(self, model: Model) -> Observed:
        """What a model says."""
        return free_form.observe(
            model, self.asked, self.choices, self._texts, one_line=self._one_line
        )
