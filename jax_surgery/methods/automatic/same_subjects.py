# SPDX-License-Identifier: Apache-2.0
"""Other questions about the subjects of the update.

A new capital of a country is not its new language. What is learned of a subject spreads to
all that is asked about it, which questions about other subjects do not show. So these
subjects are put in the place of those of other facts' questions, and into questions that
may be asked of anything.

Nothing is asked about subjects that are unlearned alone: who has a person deleted wants
nothing of them retained.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked

OF_ANYTHING = (
    "Tell me about {}.",
    "What is {}?",
    "What is {} known for?",
    "Where is {}?",
    "Why is {} important?",
    "What do people say about {}?",
)
PLACE = "{}"
_POSSESSIVE = re.compile(r"['’]s?$")


class Form(NamedTuple):
    """A question with its subject cut out.

    Attributes:
      asked: the question.
      subject: as it is written there.
      form: with `PLACE` in the place of the subject.
    """

    asked: Asked
    subject: str
    form: str


def form(asked: Asked, facts: Facts) -> Form | None:
    """The form of one of the job's questions; None where no subject is found."""
    question = asked.question
    wanted = facts.of(question).subject
    own = [w for w in fact_words.words(question) if w.key in wanted]
    own = [w for w in own if w.name] or own
    if not own or PLACE in question:
        return None
    start = own[0].start
    subject = _POSSESSIVE.sub("", question[start : own[-1].stop])
    whole = f"{question[:start]}{PLACE}{question[start + len(subject) :]}"
    return Form(asked, subject, whole)


def _relations(forms: Sequence[Form], facts: Facts) -> dict[str, set[str]]:
    """The forms of the questions of each question's fact, and of facts that are asked
    for in one of the same forms."""
    by_fact: dict[tuple[str, ...], set[str]] = {}
    for one in forms:
        key = facts.of(one.asked.question).questions
        by_fact.setdefault(key, set()).add(one.form)
    alike = {
        key: set().union(*(other for other in by_fact.values() if other & own))
        for key, own in by_fact.items()
    }
    return {q: of for key, of in alike.items() for q in key}


def questions(
    updated: Sequence[Asked],
    others: Sequence[Asked],
    facts: Facts,
    known: Sequence[str],
    rng: np.random.Generator,
) -> list[tuple[Asked, str]]:
    """Questions about the subjects of the update, each with one of the job's that it is
    written like: every other relation of the job once, in one of its forms, and those of
    `OF_ANYTHING`.

    Args:
      updated: questions that get a new answer.
      others: all of the job's questions.
      known: questions that are retained already.
    """
    forms = [one for asked in others if (one := form(asked, facts))]
    relation = _relations(forms, facts)
    seen = {*known, *(asked.question for asked in others)}
    found: list[tuple[Asked, str]] = []
    done = set()
    for asked in updated:
        fact, mine = facts.of(asked.question).questions, form(asked, facts)
        if fact in done or not mine:
            continue
        done.add(fact)
        taken = set(relation[asked.question])
        asks: list[tuple[Asked, str]] = []
        for place in rng.permutation(len(forms)):
            other = forms[place]
            if other.form not in taken:
                taken |= relation[other.asked.question]
                asks.append((other.asked, other.form))
        asks += [(asked, one) for one in OF_ANYTHING]
        for like, one in asks:
            question = one.replace(PLACE, mine.subject)
            if question not in seen:
                seen.add(question)
                found.append((like, question))
    return found
