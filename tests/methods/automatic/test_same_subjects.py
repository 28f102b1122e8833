# SPDX-License-Identifier: Apache-2.0
"""Other questions about the subjects of the update: which are asked, and how."""

import numpy as np
from completion_cases import of_row

from jax_surgery.methods.automatic import same_subjects
from jax_surgery.methods.automatic.facts import Facts

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


def found(*updated, known=()):
    chosen = [one for one in ASKED if one.question in updated]
    rng = np.random.default_rng(0)
    return same_subjects.questions(chosen, ASKED, FACTS, known, rng)


def test_a_form_is_the_question_without_its_subject():
    cut = [same_subjects.form(one, FACTS)[1:] for one in ASKED]
    assert cut[1] == ("Egypt", "{}'s capital city is called what?")
    assert cut[4] == ("Japan", "Which money is used in {}?")
    assert cut[5] == ("Moby-Dick", "Who wrote '{}'?")


def test_every_other_relation_is_asked_once_and_its_own_never():
    said = [question for _, question in found(PAIRS[0][0], PAIRS[1][0])]
    of_others, of_anything = said[: -len(same_subjects.OF_ANYTHING)], said[-6:]
    currency = {"What is the currency of Egypt?", "Which money is used in Egypt?"}
    assert len(of_others) == 2 and "Who wrote 'Egypt'?" in of_others
    assert len(currency & set(of_others)) == 1
    assert not any("capital" in question for question in said)
    assert of_anything[0] == "Tell me about Egypt."


def test_nothing_is_asked_of_subjects_that_are_unlearned_alone():
    assert not found()
    assert not any("Japan" in question for _, question in found(PAIRS[0][0]))


def test_what_is_retained_already_is_not_asked_again():
    known = "What is Egypt known for?"
    assert known in [question for _, question in found(PAIRS[0][0])]
    assert known not in [q for _, q in found(PAIRS[0][0], known=[known])]
