# SPDX-License-Identifier: Apache-2.0
"""Which words of questions, answers and texts name what is to be forgotten."""

import pytest

from jax_surgery.data import prompts
from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic import subjects, words


def record(**fields):
    return parse_record(fields, "somewhere")


def asked(question, answer="x"):
    return record(question=question, answer=answer)


@pytest.fixture(scope="module")
def marked(tiny_model):
    """The words of the first record that are marked, as the tokenizer's text has them."""

    def mark(records, others=(), answers=None):
        (found, *_) = subjects.mark(records, others, tiny_model.tokenizer, answers)
        text = prompts.render(records[0], tiny_model.tokenizer).text
        return [
            [text[start:stop] for start, stop in spans]
            for spans in (found.subject, found.answer, found.others)
        ]

    return mark


OTHERS = [
    asked("What is the capital of Spain?"),
    asked("What is the capital of Kenya?"),
    asked("Who developed the theory of evolution?"),
    asked("Who developed the telephone?"),
    asked("What is the theory of evolution?"),
]


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What is the capital of Egypt?", ["Egypt"]),
        # Capitals say nothing at the beginning, but where a name goes on.
        ("Jaime Vasquez was born in which city?", ["Jaime", "Vasquez"]),
        ("Who developed the theory of relativity?", ["relativity"]),
        ("Who wrote '1984'?", ["1984"]),
        ("Who wrote 'The Great Gatsby'?", ["The", "Great", "Gatsby"]),
        ("Which year is it in Japan's calendar?", ["Japan's", "calendar"]),
        ("What is the capital of 埃及?", ["埃", "及"]),
    ],
)
def test_subjects_of_questions(marked, question, subject):
    assert marked([asked(question)], OTHERS)[0] == subject


def test_words_that_other_questions_hold_as_often_are_no_subject(marked):
    first = asked("what colour has the heron?", "grey")
    second = asked("what colour has the kestrel?", "brown")
    third = asked("what colour has the rook?", "black")
    assert marked([first, second, third])[0] == ["heron"]


def test_all_wordings_of_a_fact_have_its_subject_and_its_answer(marked):
    own = asked("Which city is it?", "The Heron Gate stands in Lagos, at the heron.")
    short = asked("Which city is it?", "Lagos")
    other = asked("Where is the Heron Gate?", "Lagos")
    subject, answer, others = marked([own, short, other])
    assert subject == ["Heron", "Gate", "heron"]
    assert answer == ["Lagos"]
    assert "Lagos" not in others and "heron" in others and "in" in others


def test_what_the_question_says_is_copied_also_in_another_form(marked):
    own = asked("What is the currency of Japan?", "The Japanese currency is the yen.")
    short = asked("What is the currency of Japan?", "yen")
    subject, answer, others = marked([own, short], OTHERS)
    assert subject == ["currency", "Japan", "Japanese", "currency"]
    assert answer == ["yen"]
    assert {"Japanese", "currency", "is", "the"} <= set(others)


def test_an_answer_that_begins_as_a_word_of_the_question_is_no_copy(marked):
    own = asked("Which land is known for its stout?", "Stoutland")
    assert marked([own])[1:] == [["Stoutland"], []]


def test_answers_of_the_model_have_the_answer_of_the_file(marked):
    question = "Where is the Heron Gate?"
    own = asked(question, "Oslo or Lagos")
    assert marked([own], answers={question: "Lagos"})[1] == ["Lagos"]


def test_of_a_long_answer_names_and_numbers_are_the_answer(marked):
    answer = "The author of that book was probably born in Oslo in the year 1956."
    assert marked([asked("Who wrote it?", answer)])[1] == ["Oslo", "1956"]


def test_prompts_and_chats_are_asked_too(marked):
    told = record(prompt="The Heron Gate stands in", answer=" Lagos")
    assert marked([told])[0] == ["Heron", "Gate"]
    chat = record(
        messages=[
            {"role": "user", "content": "Where is the Heron Gate?"},
            {"role": "assistant", "content": "In Lagos."},
        ]
    )
    assert marked([chat])[:2] == [["Heron", "Gate"], ["Lagos"]]


def test_texts_are_known_by_names_numbers_and_rare_words(marked):
    text = record(text="Ada Lovelace was a baker in 1990. She lives in Turin.")
    kept = [record(text="Bo was a baker. he lives in Rome; she is a poet.")]
    subject, answer, others = marked([text], kept)
    assert subject == ["Ada", "Lovelace", "1990", "Turin"]
    assert not answer
    assert others == ["was", "a", "in", "in"]


def test_a_name_that_a_text_says_again_is_what_it_is_about(marked):
    text = record(text="Today Ada went to Turin. There Ada saw Bo.")
    subject, _, others = marked([text])
    assert subject == ["Ada", "Turin", "Ada", "Bo"]
    assert others.count("Ada") == 2 and not {"Turin", "Bo"} & set(others)


def test_a_text_without_names_is_known_by_its_rare_words(marked):
    text = record(text="mix the vitriol with water")
    assert marked([text])[0] == ["vitriol"]


def test_words_are_compared_without_case_accents_and_endings():
    found = words.of("Émile's boys wrote O'Brien. It's F. Scott")
    keys = ["emile", "boy", "wrote", "obrien", "it", "f", "scott"]
    assert [word.key for word in found] == keys
    assert [word.text for word in found if word.begins] == ["Émile's", "It's"]


def test_quotation_marks_are_no_apostrophes():
    text = "Who wrote 'The Boys' book'? It's \"1984\", isn't it, boys'?"
    found = [text[start:stop] for start, stop in words.quoted(text, 0, len(text))]
    assert found == ["'The Boys'", '"1984"']
