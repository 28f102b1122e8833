# SPDX-License-Identifier: Apache-2.0
"""The job's questions in other words: which ask for the same, and what becomes of them."""

from completion_cases import ASKED, FACTS, FakeWriter

from jax_surgery.methods.automatic import rewordings

EGYPT, MOBY = ASKED[0], ASKED[4]


def test_another_wording_names_the_subject_in_words_of_the_fact():
    same = lambda one, question: rewordings.same(one, question, FACTS)
    assert same(EGYPT, "Egypt has which city as its capital?")
    assert same(MOBY, "By whom was the novel 'Moby-Dick' written?")
    assert not same(EGYPT, "Which city is the capital?")  # of what?
    assert not same(EGYPT, "Which city is the largest of Egypt?")  # another one
    assert not same(EGYPT, "Is Cairo the capital of Egypt?")  # tells the answer
    assert not same(EGYPT, "Is Egypt Egypt?")  # runs on
    assert not same(EGYPT, "What is the capital of France?")


def test_the_model_goes_on_with_lists_of_the_wordings_of_each_fact():
    writer = FakeWriter(
        " What is Egypt's capital called? Cairo",
        " what is egypt's capital called?",
        " Who is it that wrote 'Moby-Dick'?",
        " Who wrote 'Moby-Dick'",
        " Who wrote 'Moby-Dick'?",
    )
    found = rewordings.questions(writer, ASKED, FACTS, 20)
    assert sorted(question for _, question in found) == [
        "What is Egypt's capital called?",
        "Who is it that wrote 'Moby-Dick'?",
    ]
    for one, question in found:
        named = "Egypt" if "Egypt" in question else "Moby-Dick"
        assert named in one.question
    lines = writer.lists[0].split("\n")
    assert lines[0] == rewordings.TITLE and lines[-1] == "Question:"
    # Wordings of one fact alone, whatever their order.
    assert len(lines) == 2 + 3 and all("Egypt" in line for line in lines[1:-1])
    assert len(rewordings.questions(writer, ASKED, FACTS, 1)) == 1
    assert rewordings.questions(writer, ASKED, FACTS, 0) == []
    assert rewordings.questions(writer, [], FACTS, 9) == []


def test_the_model_asks_for_the_same_where_it_answers_with_it():
    found = [
        (EGYPT, "Egypt has which capital?"),
        (EGYPT, "Which is Egypt's capital?"),
        (MOBY, "Who is it that wrote 'Moby-Dick'?"),
        (EGYPT, "What is Egypt's capital called?"),
    ]
    answers = ["It is Cairo.", "It is Alexandria.", "Herman Melville did.", "Cairo."]
    told = rewordings.answered(found, answers, FACTS)
    assert [record.question for _, record in told] == [found[i][1] for i in (0, 2, 3)]
    egypt = FACTS.of(EGYPT.question).questions
    trained, asked = rewordings.halves(told, {egypt}, FACTS)
    # Egypt gets a new capital, which is learned in half of what was found.
    assert [record.said.strip() for _, record in trained] == ["It is Cairo."]
    assert [record.question for _, record in asked] == [found[i][1] for i in (2, 3)]
