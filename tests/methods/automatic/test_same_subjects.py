# SPDX-License-Identifier: Apache-2.0
"""Other questions about the subjects of the update: which are asked, and how."""

import numpy as np
from completion_cases import of_row

from jax_surgery.methods.automatic import same_subjects
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.metrics.tokens import TextScores

PAIRS = [
    ("What is the capital of Egypt?", "Cairo"),
    ("Egypt's capital city is called what?", "Cairo"),
    ("What is the capital of Norway?", "Oslo"),
    ("What is the currency of Japan?", "Yen"),
    ("Which money is used in Japan?", "Yen"),
    ("Who wrote 'Moby-Dick'?", "Melville"),
]
FACTS = Facts(PAIRS)
ASKED = [of_row({"question": q, "answer": a}) for q, a in PAIRS]


def equal(pairs):
    """Every subject is as likely everywhere."""
    return [-2.0] * len(pairs)


def found(*updated, known=(), likely=equal, count=60):
    chosen = [one for one in ASKED if one.question in updated]
    rng = np.random.default_rng(0)
    return same_subjects.questions(chosen, ASKED, FACTS, known, likely, rng, count)


def test_a_form_is_the_question_without_its_subject():
    cut = [same_subjects.form(one, FACTS)[1:] for one in ASKED]
    assert cut[1] == ("Egypt", "{}'s capital city is called what?")
    assert cut[4] == ("Japan", "Which money is used in {}?")
    assert cut[5] == ("Moby-Dick", "Who wrote '{}'?")


def test_every_other_relation_is_asked_once_and_its_own_never():
    said = [question for _, question in found(PAIRS[0][0], PAIRS[1][0])]
    count = len(same_subjects.OF_ANYTHING)
    of_others, of_anything = said[:-count], said[-count:]
    currency = {"What is the currency of Egypt?", "Which money is used in Egypt?"}
    assert len(of_others) == 2 and "Who wrote 'Egypt'?" in of_others
    assert len(currency & set(of_others)) == 1
    assert not any("capital" in question for question in said)
    assert of_anything[0] == "Tell me about Egypt."


def test_a_relation_is_asked_of_what_may_have_it_alone():
    """Nobody asks who wrote Egypt: it is much less likely there than a book."""

    def likely(pairs):
        return [
            -9.0 if (one.form, subject) == ("Who wrote '{}'?", "Egypt") else -2.0
            for one, subject in pairs
        ]

    said = [question for _, question in found(PAIRS[0][0], likely=likely)]
    assert "Who wrote 'Egypt'?" not in said
    assert len(said) == 1 + len(same_subjects.OF_ANYTHING)


def test_likelihood_is_of_the_subject_behind_the_words_before_it(monkeypatch):
    seen = []

    def score(model, probe):
        seen.extend((r.prompt, r.answer) for r in probe.records)
        logp = np.asarray([-3.0, -8.0])
        return TextScores(np.zeros(2), np.asarray([1, 2]), logp, ("0", "1"))

    monkeypatch.setattr(same_subjects, "score_texts", score)
    forms = [same_subjects.form(ASKED[i], FACTS) for i in (0, 5)]
    got = same_subjects.likelihood(None)([(one, "Egypt") for one in forms])
    assert got == [-3.0, -4.0]  # per token
    assert seen == [
        ("Question: What is the capital of", " Egypt"),
        ("Question: Who wrote '", " Egypt"),
    ]


def test_nothing_is_asked_of_subjects_that_are_unlearned_alone():
    assert not found()
    assert not any("Japan" in question for _, question in found(PAIRS[0][0]))


def test_what_is_retained_already_is_not_asked_again():
    known = "What is Egypt known for?"
    assert known in [question for _, question in found(PAIRS[0][0])]
    assert known not in [q for _, q in found(PAIRS[0][0], known=[known])]


def test_of_many_subjects_and_relations_some_alone_are_scored(monkeypatch):
    """Four hundred updated facts with a form each would be 160,000 texts to score."""
    monkeypatch.setattr(same_subjects, "TRIED_FOR_ONE", 1)
    scored = []

    def likely(pairs):
        scored.extend(pairs)
        return equal(pairs)

    said = found(*(question for question, _ in PAIRS), likely=likely, count=2)
    # Two, and for each of them the form's own subject.
    assert len(scored) == 4
    assert len(said) == 2 + 4 * len(same_subjects.OF_ANYTHING)
