# SPDX-License-Identifier: Apache-2.0
"""Tests of the job's questions about packaged names."""

import collections

import numpy as np
import pytest

from jax_surgery.data import general
from jax_surgery.data.forms import Record
from jax_surgery.methods.automatic import named_subjects
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked

CURRENCY = ("What is the currency of {}?", "Which currency is used in {}?")
WRITER = ("Who wrote '{}'?", "'{}' was written by which author?")
NAMES = {
    "countries": ["Israel", "Brazil", "Kenya", "Norway", "Peru"],
    "books": ["Hamlet", "Dune", "Emma", "Kim"],
    "rivers": ["Nile", "Amazon", "Peru"],
}


def job(*facts):
    """(questions, Facts) of (wordings, subject, answer)."""
    pairs = [(w.format(s), answer) for wordings, s, answer in facts for w in wordings]
    asked = [Asked(Record("", a, (), "", question=q), q) for q, a in pairs]
    return asked, Facts(pairs)


def made(asked, facts, count=100, known=(), seed=0):
    rng = np.random.default_rng(seed)
    return named_subjects.questions(asked, facts, known, NAMES, rng, count)


TWO = ((CURRENCY, "Israel", "Shekel"), (WRITER, "Hamlet", "Shakespeare"))


def test_each_relation_is_asked_of_the_names_of_its_kind():
    found = made(*job(*TWO))
    asked = {question for _, question in found}
    wanted = {
        kind: {w.format(name) for w in wordings for name in others}
        for kind, wordings, others in (
            ("countries", CURRENCY, NAMES["countries"][1:]),
            ("books", WRITER, NAMES["books"][1:]),
        )
    }
    assert asked <= wanted["countries"] | wanted["books"]
    # Each name once, and the wordings take turns.
    counts = collections.Counter(like.question for like, _ in found)
    assert counts == {
        CURRENCY[0].format("Israel"): 2,
        CURRENCY[1].format("Israel"): 2,
        WRITER[0].format("Hamlet"): 2,
        WRITER[1].format("Hamlet"): 1,
    }
    assert all(
        question.replace(new, own) == like.question
        for like, question in found
        for own, of in (("Israel", NAMES["countries"]), ("Hamlet", NAMES["books"]))
        for new in of
        if new in question
    )


def test_of_a_few_questions_every_relation_has_some():
    found = made(*job(*TWO), count=4)
    firsts = [
        like.question.startswith(("What is the c", "Which c")) for like, _ in found
    ]
    assert firsts.count(True) == firsts.count(False) == 2
    assert made(*job(*TWO), count=0) == []
    # Another seed asks of others.
    other = made(*job(*TWO), count=4, seed=1)
    assert [q for _, q in other] != [q for _, q in found]


def test_nothing_is_asked_that_names_the_job_or_is_retained_already():
    asked, facts = job(*TWO, (CURRENCY[:1], "Brazil", "Real"))
    known = [w.format("Kenya") for w in CURRENCY]
    found = {question for _, question in made(asked, facts, known=known)}
    assert found and not [q for q in found if "Brazil" in q or "Israel" in q]
    assert not found & set(known)


def test_a_subject_of_several_kinds_is_asked_of_all_of_them():
    found = {q for _, q in made(*job((("Where is {}?",), "Peru", "America")))}
    assert "Where is Nile?" in found and "Where is Kenya?" in found


@pytest.mark.parametrize("subject", ["Jane Roe", "Atlantis"])
def test_a_subject_that_is_no_packaged_name_is_asked_of_none(subject):
    assert made(*job((CURRENCY, subject, "Crown"))) == []


def test_packaged_names_stand_once_in_their_kind_and_are_plain():
    names = general.names()
    assert len(names) >= 15 and sum(map(len, names.values())) >= 800
    for kind, some in names.items():
        assert len({name.casefold() for name in some}) == len(some) >= 15, kind
        assert all(name == name.strip() and len(name) < 45 for name in some)
