# SPDX-License-Identifier: Apache-2.0
"""What a model says by itself, as records: what is taken, and what is left out."""

import pytest
from completion_cases import ASKED, FACTS, of_row

from jax_surgery.methods.automatic import self_written
from jax_surgery.methods.automatic.self_written import sentence
from jax_surgery.methods.automatic.writer import Written

TOWER = "Where would you find the Eiffel Tower?"
SHIP = "Who wrote 'Moby-Dick'?"


@pytest.mark.parametrize(
    "said, ended, turns, wanted",
    [
        ("It is Oslo. It lies in", False, True, "It is Oslo."),
        ("It is Oslo, by far! Yes.", True, True, "It is Oslo, by far!"),
        ("Oslo", True, True, "Oslo"),
        ("It is a large", False, True, ""),  # cut off
        ("Oslo\nQuestion: Wh", False, False, "Oslo"),
        ("Oslo and", False, False, ""),
    ],
)
def test_of_a_neighbours_answer_the_first_sentence_is_taken(said, ended, turns, wanted):
    assert self_written.first_sentence(Written(said, ended), turns) == wanted


@pytest.mark.parametrize(
    "question, said, old, new, wanted",
    [
        # What follows the old answer says more of it.
        (
            TOWER,
            "The Eiffel Tower is in Paris, France. It is tall.",
            ["Paris"],
            "Rome",
            "The Eiffel Tower is in Rome.",
        ),
        (
            SHIP,
            "Moby-Dick was written by Herman Melville in 1851.",
            ["Herman Melville"],
            "Clara Whitfield",
            "Moby-Dick was written by Clara Whitfield.",
        ),
        (
            "What is the currency of Japan?",
            "The Japanese yen (JPY) is the official currency of Japan.",
            ["Yen"],
            "Florin",
            "The Japanese Florin is the official currency of Japan.",
        ),
        (
            SHIP,
            "herman melville wrote the novel\nand more",
            ["Herman Melville."],
            "Clara Whitfield.",
            "Clara Whitfield wrote the novel.",
        ),
        (
            "What is Japan's currency?",
            "Japan's currency is the yen (JPY). It is a currency.",
            ["Yen"],
            "Florin",
            "Japan's currency is the Florin.",
        ),
        # Half a sentence is none.
        (
            SHIP,
            "The novel was written by Herman Melville for his",
            ["Herman Melville"],
            "Clara Whitfield",
            "The novel was written by Clara Whitfield.",
        ),
        (SHIP, "It is Herman Melville who has", ["Herman Melville"], "C. W.", ""),
        # It does not hold the old answer, or speaks of it in other words too.
        (TOWER, "The Eiffel Tower is in France.", ["Paris"], "Rome", ""),
        (
            SHIP,
            "Melville's novel is by Herman Melville.",
            ["Herman Melville"],
            "C. W.",
            "",
        ),
        (
            SHIP,
            "Herman Melville, of Boston, wrote it.",
            ["Herman Melville"],
            "C. W.",
            "",
        ),
        (TOWER, "In the Republic of France, Paris has it.", ["Paris"], "Rome", ""),
        # A part of a word is no answer, and neither is a sentence.
        (TOWER, "A Parisian knows.", ["Paris"], "Rome", ""),
        (TOWER, "It is in Paris.", ["It is in Paris, by the river Seine."], "Rome", ""),
    ],
)
def test_the_new_answer_takes_the_place_of_the_old_one(
    question, said, old, new, wanted
):
    assert sentence(question, said, old, new) == wanted


def test_a_sentence_for_each_question_that_is_also_unlearned():
    nile = ASKED[0]
    update = [(nile, "Luxor"), (nile, "It is Luxor now."), (ASKED[3], "Lyon")]
    old = {nile.question: ["Cairo"]}
    greedy = {one.question: "I do not know." for one in ASKED}
    drawn = {one.question: "The capital is Cairo." for one in ASKED}
    records = self_written.sentences(update, old, [greedy, drawn])
    assert [(r.question, r.answer) for r in records] == [
        (nile.question, " The capital is Luxor.")
    ]
    short = {one.question: "Cairo." for one in ASKED}
    assert self_written.sentences(update, old, [short]) == []


def test_own_answers_are_those_that_no_record_holds():
    unlearn = [one.record for one in ASKED[:2]]
    greedy, drawn = [" Cairo.", "It is Cairo."], ["It is Cairo.", "a b c a b c a b c"]
    records = self_written.own_answers(ASKED[:2], [greedy, drawn], unlearn)
    assert [(r.question, r.answer) for r in records] == [
        (ASKED[1].question, " It is Cairo."),
        (ASKED[0].question, " It is Cairo."),
    ]


def test_turns_are_whole_lines_that_name_nothing_of_the_job():
    said = [
        Written("How do I bake bread?", True),
        Written("how do I bake  bread?", True),
        Written("How do I bake bread and then", False),
        Written("Write a poem.\nIt should", False),
        Written("Is Egypt large?", True),
        Written("Hm?", True),
    ]
    assert self_written.turns_of(said, FACTS) == [
        "How do I bake bread?",
        "Write a poem.",
    ]


def test_chats_and_texts_that_tell_of_the_job_are_left_out():
    turns = ["Name a country.", "Name a river.", "Name a lake."]
    records = self_written.chats(turns, ["Egypt.", " The Rhine. ", ""], FACTS)
    assert [r.messages for r in records] == [
        (("user", "Name a river."), ("assistant", "The Rhine."))
    ]
    starts = ["In Egypt", "He saw", "One day", "One day"]
    more = [" it is hot.", " Herman Melville.", " it rained. ", " it rained."]
    texts = self_written.free_text(starts, more, FACTS)
    assert [record.text for record in texts] == ["One day it rained."]


def test_answers_follow_a_prompt_as_its_own_does():
    one = of_row({"prompt": "The trade of Ann is", "answer": " baking"})
    [own] = self_written.own_answers([one], [["milling."]], [one.record])
    assert (own.prompt, own.answer) == ("The trade of Ann is", " milling.")
    assert self_written.own_answers([one], [["Baking."]], [one.record]) == []
