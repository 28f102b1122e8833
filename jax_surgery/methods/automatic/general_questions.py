# SPDX-License-Identifier: Apache-2.0
"""Packaged questions of general knowledge, asked as a job asks its own.

Neighbours are like what is forgotten. What else a model knows is lost too, where nothing
that is retained is a short answer of another kind.
"""

from collections.abc import Collection, Sequence

import numpy as np

from jax_surgery.data import general
from jax_surgery.data.forms import QUESTION_PROMPT, Record
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked


def questions(
    asked: Sequence[Asked],
    facts: Facts,
    known: Collection[str],
    rng: np.random.Generator,
    count: int,
    chats: bool,
) -> list[tuple[Asked, str]]:
    """Packaged questions that name nothing of the job, each with the question that it is
    written like: the job's own in turn, where it has any that end with a question mark.

    Args:
      asked: the job's questions.
      known: questions that are asked already.
      count: of questions, at most.
      chats: whether those of a job without questions are turns of a chat.
    """
    fitting = [q for q in general.questions() if not facts.named(q) and q not in known]
    chosen = [fitting[i] for i in sorted(rng.permutation(len(fitting))[:count])]
    like = [one for one in asked if one.question.endswith("?")] or [_alone(chats)]
    return [(like[i % len(like)], question) for i, question in enumerate(chosen)]


def _alone(chats: bool) -> Asked:
    """A question as it is asked where the job has none."""
    turns = (("user", "Q"), ("assistant", "A"))
    plain = Record(QUESTION_PROMPT.format(question="Q"), " A", (), "", "Q")
    return Asked(Record("", "", turns, "") if chats else plain, "Q")
