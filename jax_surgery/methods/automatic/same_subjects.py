# SPDX-License-Identifier: Apache-2.0
"""Other questions about the subjects of the update.

A new capital of a country is not its new language. What is learned of a subject spreads to
all that is asked about it, which questions about other subjects do not show. So these
subjects are put in the place of those of other facts' questions, where the model finds
them about as likely there, and into questions that may be asked of anything.

Nothing is asked about subjects that are unlearned alone: who has a person deleted wants
nothing of them retained.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic import neighbours
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked
from jax_surgery.metrics.base import Probe
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

OF_ANYTHING = ("Tell me about {}.", "What is {} known for?", "Where is {}?")
# Nats per token that a subject may be less likely after the beginning of a question than
# the question's own: who wrote Russia?
LESS_LIKELY = 1.5
TRIED_FOR_ONE = 4  # subjects that are scored for a question that is wanted, at most
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

    def with_subject(self, subject: str) -> str:
        """The question about another subject."""
        return self.form.replace(PLACE, subject)


# How likely each of some subjects is where the form has its own, nats per token.
Likelihood = Callable[[Sequence[tuple[Form, str]]], Sequence[float]]


def likelihood(model: Model) -> Likelihood:
    """By the words of a question before its subject, as plain text."""

    def of(pairs: Sequence[tuple[Form, str]]) -> list[float]:
        records = [
            Record(
                f"Question: {one.form.partition(PLACE)[0].rstrip()}",
                f" {subject}",
                (),
                str(i),
            )
            for i, (one, subject) in enumerate(pairs)
        ]
        scores = score_texts(
            model, Probe("subjects", neighbours.CONTEXT, records=tuple(records))
        )
        found = dict(zip(scores.origins, scores.logp / scores.tokens, strict=True))
        return [found.get(record.origin, -math.inf) for record in records]

    return of


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


def relations(asked: Sequence[Asked], facts: Facts) -> list[list[Form]]:
    """The forms of the job's questions, each once, those of one relation together."""
    forms = {one.form: one for a in asked if (one := form(a, facts))}
    of = _relations(list(forms.values()), facts)
    each = (frozenset(of[one.asked.question]) for one in forms.values())
    found = list(dict.fromkeys(each))
    # Of relations that share a form the larger one.
    whole = [one for one in found if not any(one < other for other in found)]
    return [[one for key, one in forms.items() if key in group] for group in whole]


def questions(
    updated: Sequence[Asked],
    others: Sequence[Asked],
    facts: Facts,
    known: Sequence[str],
    likely: Likelihood,
    rng: np.random.Generator,
    count: int,
) -> list[tuple[Asked, str]]:
    """Questions about the subjects of the update, each with one of the job's that it is
    written like: every other relation of the job once, in one of its forms, where the
    subject is likely enough (`LESS_LIKELY`), and those of `OF_ANYTHING`.

    Args:
      updated: questions that get a new answer.
      others: all of the job's questions.
      known: questions that are retained already.
      likely: see `likelihood`.
      count: of questions that are wanted. More may come; but where many subjects meet many
        relations, only some of them are scored.
    """
    forms = [one for asked in others if (one := form(asked, facts))]
    relation = _relations(forms, facts)
    crossed: list[tuple[Form, str]] = []
    of_anything: list[tuple[Asked, str]] = []
    done = set()
    for asked in updated:
        fact, mine = facts.of(asked.question).questions, form(asked, facts)
        if fact in done or not mine:
            continue
        done.add(fact)
        taken = set(relation[asked.question])
        for place in rng.permutation(len(forms)):
            other = forms[place]
            if other.form not in taken:
                taken |= relation[other.asked.question]
                crossed.append((other, mine.subject))
        of_anything += [(asked, q.replace(PLACE, mine.subject)) for q in OF_ANYTHING]
    if len(crossed) > (most := TRIED_FOR_ONE * count):
        crossed = [crossed[i] for i in sorted(rng.permutation(len(crossed))[:most])]
    found = [
        (other.asked, other.with_subject(subject))
        for other, subject in _likely(crossed, likely)
    ]
    seen = {*known, *(asked.question for asked in others)}
    fresh = {q: like for like, q in reversed([*found, *of_anything]) if q not in seen}
    return [(like, question) for question, like in reversed(fresh.items())]


def _likely(
    crossed: Sequence[tuple[Form, str]], likely: Likelihood
) -> list[tuple[Form, str]]:
    """Those whose subject is about as likely as the form's own."""
    if not crossed:
        return []
    scores = likely([*crossed, *((one, one.subject) for one, _ in crossed)])
    ours, own = scores[: len(crossed)], scores[len(crossed) :]
    return [
        pair
        for pair, here, there in zip(crossed, ours, own, strict=True)
        if here > there - LESS_LIKELY
    ]
