# SPDX-License-Identifier: Apache-2.0
"""The same questions about other subjects: how they are asked for, and which are taken."""

import numpy as np
import pytest
from completion_cases import ASKED, FACTS, FakeWriter, asked, of_row

from jax_surgery.data.forms import Record
from jax_surgery.methods.automatic import neighbours, questions
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.metrics.tokens import TextScores


@pytest.mark.parametrize(
    "question, start",
    [
        ("What is the capital of Egypt?", "What is the capital of"),
        ("Which city is Egypt's capital?", "Which city is"),
        ("Who wrote 'Moby-Dick'?", "Who wrote"),
        ("The novel 'Moby-Dick' was written by whom?", "The novel"),
    ],
)
def test_a_stem_is_the_question_up_to_its_subject(question, start):
    stem = neighbours.stem(asked(question), FACTS)
    assert stem.start == start
    assert stem.whole(" Ruritania? It is Strelsau.\nWhat") == f"{start} Ruritania?"
    assert stem.whole(" Ruritania") == ""


def test_a_question_that_begins_with_its_subject_has_no_stem():
    assert not neighbours.stem(asked("Egypt's capital city is called what?"), FACTS)


def test_a_prompt_without_a_question_mark_ends_as_its_own_does():
    text = "The trade of Tamsin Oakes is"
    one = of_row({"prompt": text, "answer": " baking bread"})
    stem = neighbours.stem(one, Facts([(text, "baking bread")]))
    assert stem[1:] == ("The trade of", "is")
    assert stem.whole(" Lisa Thorn is mending roofs.") == "The trade of Lisa Thorn is"
    assert stem.whole(" Lisa Thorn mends roofs.") == ""


def test_a_list_ends_with_the_own_question_and_begins_it_anew():
    stems = [s for one in ASKED if (s := neighbours.stem(one, FACTS))]
    text, *_ = neighbours.lists(stems[:1], stems, np.random.default_rng(0))
    lines = text.split("\n")
    assert lines[-2:] == [
        "Question: What is the capital of Egypt?",
        "Question: What is the capital of",
    ]
    assert len(lines) == neighbours.SHOTS + 1
    # Another question that begins in the same way is always there.
    assert "Question: What is the capital of France?" in lines
    assert len(set(lines[:-1])) == neighbours.SHOTS


def test_neighbours_are_usual_questions_about_something_else():
    writer = FakeWriter(
        " Norway?",
        " Norway?",
        " Egypt?",
        " Spain and the capital of Spain and the capital of Spain?",
        " Peru",
        " **Mali**?",
        " Fiji Fiji?",
        " Chad?",
    )
    found = neighbours.questions(
        writer, ASKED, FACTS, ["What is the capital of Chad?"], count=20
    )
    texts = [question for _, question in found]
    assert "What is the capital of Norway?" in texts
    assert len({text.lower() for text in texts}) == len(texts)
    assert all("Norway" in text or "Chad" in text for text in texts)
    assert "What is the capital of Chad?" not in texts
    assert all(one.record.question for one, _ in found)


def test_no_more_neighbours_than_asked_for_and_none_without_questions():
    lines = [f" country number {i}?" for i in range(99)]
    assert len(neighbours.questions(FakeWriter(*lines), ASKED, FACTS, [], 7)) == 7
    assert neighbours.questions(FakeWriter(*lines), [], FACTS, [], 7) == []
    assert neighbours.questions(FakeWriter(*lines), ASKED, FACTS, [], 0) == []


def test_answers_that_tell_what_is_forgotten_are_left_out():
    found = [
        (ASKED[0], "What is the capital of Spain?"),
        (ASKED[0], "Which country lies between Libya and Israel?"),
        (ASKED[4], "Who wrote 'Typee'?"),
        (ASKED[4], "Who wrote 'Emma'?"),
    ]
    answers = ["Madrid.", "Egypt, whose capital is Cairo.", " Herman Melville. ", " "]
    found.append((ASKED[0], "What is the capital of Norway?"))
    answers.append("It is in the north of the north of the north of Norway")
    records = [record for _, record in neighbours.answered(found, answers, FACTS)]
    assert [(r.question, r.answer) for r in records] == [
        ("What is the capital of Spain?", " Madrid."),
        ("Who wrote 'Typee'?", " Herman Melville."),
    ]
    assert len({record.origin for record in records}) == 2


@pytest.mark.parametrize(
    "row, question, said",
    [
        ({"prompt": "Q: Who is it?\nA:", "answer": " Ann"}, "Who is it?", " Bob"),
        (
            {"prompt": "The name of it is", "answer": " Ann"},
            "The name of it is",
            " Bob",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Who is it?"},
                    {"role": "assistant", "content": "Ann"},
                ]
            },
            "Who is it?",
            "Bob",
        ),
    ],
)
def test_every_form_asks_another_question_in_its_own_way(row, question, said):
    one = of_row(row)
    assert one.question == question
    other = one.other("Who was it?", "Bob", "there")
    assert other.said == said
    before, after = one.record, other
    assert after.text == before.text.replace(question, "Who was it?").replace(
        "Ann", "Bob"
    )


def test_plain_texts_and_longer_conversations_ask_nothing():
    turns = ("user", "Hi."), ("assistant", "Hi."), ("user", "Who?"), ("assistant", "I.")
    assert questions.of(Record("", "Some text.", (), ""), None) is None
    assert questions.of(Record("", "", turns, ""), None) is None


def test_every_fact_has_as_many_neighbours():
    """A model that goes on with lists asks for capitals alone, if it is let."""
    lines = [f" land number {i}?" for i in range(98)]
    found = neighbours.questions(FakeWriter(*lines), ASKED, FACTS, [], 12)
    of = [neighbours._fact(one, FACTS) for one, _ in found]
    assert [of.count(fact.questions) for fact in FACTS.facts] == [4, 4, 4]


def answered(records, of):
    """With the question that each is modelled on."""
    return [(ASKED[i], record) for i, record in zip(of, records, strict=True)]


def test_of_each_fact_the_surest_are_left(monkeypatch):
    records = [Record(f"Q{i}", f" a{i}", (), f"neighbours:{i}") for i in range(8)]
    logp = np.asarray([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0])
    ones = np.ones(8, int)
    scores = TextScores(ones, ones, logp, tuple(r.origin for r in records))
    monkeypatch.setattr(neighbours, "score_texts", lambda model, probe: scores)
    pairs = answered(records, [0, 0, 0, 0, 4, 4, 5, 5])  # of Egypt, and of Moby-Dick
    left = [r.origin for r in neighbours.known(None, pairs, FACTS)]
    assert left == [f"neighbours:{i}" for i in (0, 1, 2, 4, 5, 6)]
    left = [r.origin for r in neighbours.known(None, pairs, None)]
    assert left == [f"neighbours:{i}" for i in range(6)]


def test_answers_that_a_model_is_least_sure_of_are_left_out(monkeypatch):
    records = [Record(f"Q{i}", f" a{i}", (), f"neighbours:{i}") for i in range(8)]
    total = np.asarray([-1.0, -9.0, -2.0, -3.0, -8.0, -4.0, -5.0, -6.0])
    tokens = np.asarray([1, 1, 1, 1, 80, 1, 1, 1])  # the fifth is long, and likely
    scores = TextScores(tokens, tokens, total, tuple(r.origin for r in records))
    monkeypatch.setattr(neighbours, "score_texts", lambda model, probe: scores)
    left = [r.origin for r in neighbours.known(None, answered(records, [0] * 8), None)]
    assert left == [f"neighbours:{i}" for i in (0, 2, 3, 4, 5, 6)]
    assert neighbours.known(None, [], FACTS) == []
