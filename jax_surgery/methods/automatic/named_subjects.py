# SPDX-License-Identifier: Apache-2.0
"""The job's questions about packaged names: of each relation that it asks for, as many.

A model that writes neighbours by itself drifts to what it prefers to ask for, mostly
capitals, and what nobody asks it about moves: of a job that changes one currency the
others were lost first. So where the subject of a question is one of the packaged names, a
country or a book, others of its kind stand in its place too. A question whose subject is
none of them has the neighbours alone that the model writes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_surgery.methods.automatic import neighbours, same_subjects
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked


def questions(
    asked: Sequence[Asked],
    facts: Facts,
    known: Sequence[str],
    names: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
    count: int,
) -> list[tuple[Asked, str]]:
    """Questions about other subjects, each with the job's that it is written like; as
    many of each relation, in its wordings in turn.

    Args:
      asked: the job's questions, each once.
      known: questions that are retained already.
      names: by kind; a name may be of several.
      count: of questions, at most.
    """
    kinds: dict[str, list[str]] = {}
    for kind, some in names.items():
        for name in some:
            kinds.setdefault(name.casefold(), []).append(kind)
    seen = {*known, *(one.question for one in asked)}
    found = []
    for number, relation in enumerate(same_subjects.relations(asked, facts)):
        forms = [one for one in relation if one.subject.casefold() in kinds]
        of = {kind for one in forms for kind in kinds[one.subject.casefold()]}
        others = sorted({name for kind in of for name in names[kind]})
        turn = 0
        for place in rng.permutation(len(others)):
            one = forms[turn % len(forms)]
            question = one.with_subject(others[place])
            if question not in seen and neighbours.usable(question, facts):
                seen.add(question)
                found.append((number, (one.asked, question)))
                turn += 1
    return neighbours.of_each(found, count)
