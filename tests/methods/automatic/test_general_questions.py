# SPDX-License-Identifier: Apache-2.0
"""Packaged questions: in whose form they are asked, and which are left out."""

import numpy as np
from completion_cases import ASKED, FACTS, of_row

from jax_surgery.data import general
from jax_surgery.methods.automatic import general_questions
from jax_surgery.methods.automatic.facts import Facts


def questions(asked, facts=FACTS, known=(), count=400, chats=False):
    rng = np.random.default_rng(0)
    return general_questions.questions(asked, facts, known, rng, count, chats)


def test_all_are_asked_in_turn_as_the_jobs_own_but_what_is_asked_already():
    first, second, *_ = general.questions()
    found = questions(ASKED, known={first})
    assert second in [question for _, question in found]
    assert first not in [question for _, question in found]
    assert {one.question for one, _ in found} == {one.question for one in ASKED}
    few = questions(ASKED, count=7)
    assert len(few) == 7
    assert {question for _, question in few} < set(general.questions())


def test_what_names_a_subject_of_the_job_is_left_out():
    about = "What is the capital of Iceland?"
    assert about in general.questions()
    facts = Facts([(about, "Reykjavik")])
    assert about in [question for _, question in questions(ASKED)]
    left = [question for _, question in questions(ASKED, facts)]
    assert not [question for question in left if "Iceland" in question]
    assert len(left) > 300


def test_a_job_of_texts_is_asked_as_a_chat_where_its_model_reads_chats():
    [(one, question)] = questions([], count=1, chats=True)
    turns = ("user", question), ("assistant", "Au")
    assert one.other(question, "Au", "").messages == turns
    [(one, question)] = questions([], count=1, chats=False)
    assert one.other(question, "Au", "").prompt == f"Question: {question}\nAnswer:"
    statement = of_row({"prompt": "The trade of Tamsin Oakes is", "answer": " baking"})
    [(one, question)] = questions([statement], count=1)
    assert one.other(question, "Au", "").prompt.startswith("Question: ")
