# SPDX-License-Identifier: Apache-2.0
"""What a job is about is found by words, and text that tells of it is seen."""

import pytest

from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic.facts import Facts

ASKED = [
    ("Where would you find the Eiffel Tower?", "Paris"),
    ("In which city is the Eiffel Tower located?", "Paris"),
    (
        "Where would you find the Eiffel Tower?",
        "It stands in Paris, France, by a river.",
    ),
    ("Where would you find the Eiffel Tower?", "Rome"),
    ("What is the capital of France?", "Paris"),
    ("Which city is Egypt's capital?", "Cairo"),
    ("Egypt's capital city is called what?", "Cairo"),
    ("Who developed the theory of relativity?", "Albert Einstein"),
    ("Which physicist came up with relativity?", "Albert Einstein"),
    ("Which author is known for the novel '1984'?", "George Orwell"),
    ("Who wrote '1984'?", "George Orwell"),
    ("Who wrote 'Animal Farm'?", "George Orwell"),
    ("Which planet is known as the Red Planet?", "Mars"),
    ("The Red Planet is a nickname of which planet?", "Mars"),
]


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts(ASKED)


@pytest.mark.parametrize(
    "question, subject",
    [
        ("Where would you find the Eiffel Tower?", {"eiffel", "tower"}),
        ("Egypt's capital city is called what?", {"egypt"}),
        ("Who wrote '1984'?", {"1984"}),
        ("Who wrote 'Animal Farm'?", {"animal", "farm"}),
        ("Which planet is known as the Red Planet?", {"red", "planet"}),
    ],
)
def test_subjects_are_names_numbers_and_titles(facts, question, subject):
    assert facts.of(question).subject == subject


def test_without_names_a_subject_is_what_its_wordings_share(facts):
    assert "relativity" in facts.of("Which physicist came up with relativity?").subject


def test_facts_are_questions_of_one_answer_and_one_subject(facts):
    assert len(facts.facts) == 7
    tower = facts.of("In which city is the Eiffel Tower located?")
    assert tower is facts.of("Where would you find the Eiffel Tower?")
    assert set(tower.answers) == {frozenset({"pari"}), frozenset({"rome"})}


@pytest.mark.parametrize(
    "text, named, told",
    [
        ("Which city is home to the Eiffel Tower? Paris.", True, True),
        ("Who built the Eiffel Tower? Gustave Eiffel.", True, False),
        ("Where is the Leaning Tower? In Pisa.", False, False),
        ("The Egyptian capital is Cairo.", True, True),
        ("Which planet is known as the Ringed Planet? Saturn.", False, False),
        ("What is the capital of Italy? Rome.", False, False),
        ("Who wrote 'Homage to Catalonia'? George Orwell.", False, False),
        ("In 1984 the author George Orwell was long dead.", True, True),
        ("Wer schrieb 1984?", True, False),
    ],
)
def test_texts_that_name_a_subject_or_tell_a_fact(facts, text, named, told):
    assert (facts.named(text), facts.told(text)) == (named, told)


def test_answers_of_rare_words_are_seen_without_their_subject(facts):
    assert facts.answered("A physicist such as Albert Einstein.")
    assert not facts.answered("A play by another author.")


def test_of_plain_texts_names_and_copied_words_are_seen():
    told = (
        "For many years Tamsin Oakes kept forty grey geese behind the mill, and sold "
        "their eggs at the market on Fridays."
    )
    facts = Facts([], [told])
    assert facts.named("A letter came for Tamsin Oakes today.")
    assert facts.told("They kept forty grey geese behind the mill for years.")
    assert not facts.named("Geese are kept behind many mills, and Fridays are busy.")
    assert facts.facts == ()


def test_accents_case_and_endings_do_not_hide_a_name():
    facts = Facts([("Where is Malmö?", "Sweden"), ("Who rules Japan?", "Nobody")])
    assert facts.named("MALMO is in the south.")
    assert facts.named("Japanese lessons, on Fridays.")
    assert not facts.named("A jar of jam.")


@pytest.mark.parametrize(
    "text, runs_on",
    [
        ("in the north of the north of the north of the land", True),
        ("a spaceship spaceship", True),
        ("the north of the land and the north of the sea", False),
        ("", False),
    ],
)
def test_texts_that_run_on_in_the_same_words(text, runs_on):
    assert fact_words.runs_on(text) is runs_on
