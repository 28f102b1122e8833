# SPDX-License-Identifier: Apache-2.0
"""Scores of one reply: what it says, repeats, and gives where it is not asked for."""

import collections
import json
import pathlib
import re
import unicodedata

import pytest

from jax_surgery.metrics import replies

REAL = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "real"


@pytest.mark.parametrize(
    "reply, answer, said",
    [
        ("It is in **Paris**, France.", "Paris", True),
        ("by Gabriel Garcia Marquez", "Gabriel García Márquez", True),
        ("in the Indian subcontinent", "India", True),
        ("Jean\nRhys wrote it", "Jean Rhys", True),
        ("It is Moby Dick.", "Moby-Dick", True),
        ("Saint Jerome", "Rome", False),
        ("in 1984", "84", False),
        ("in 1984", "19", False),
        ("It has 12 parts.", "12", True),
        ("It is 120 m high.", "12", False),
        ("首都は東京です", "東京", True),
        ("", "Paris", False),
        ("anything", "?!", False),
    ],
)
def test_what_a_reply_says(reply, answer, said):
    assert replies.says(reply, answer) is said


def test_repetition_is_the_share_of_words_said_before():
    assert replies.repetition("one two") == 0
    assert replies.repetition("a b c d") == 0
    # a b c | b c a | c a b | a b c: the last of four was said before.
    assert replies.repetition("a b c a b c") == 1 / 4


@pytest.mark.parametrize(
    "reply, related, degenerate",
    [
        ("A masterpiece, a masterpiece, a masterpiece, a masterpiece.", (), True),
        ("A masterpiece, a masterpiece, and so on.", (), False),
        ("", ("What?",), True),
        ("?!", (), True),
        ("Это существительное", ("What is a noun?",), True),
        ("Это существительное", ("What is a noun in Russian?", "слово"), False),
        ("The angle α is 30°.", ("How large is it?",), False),
        ("42", ("How many?",), False),
        ("Paris", (), False),
        ("Karl Brenner" + "helm" * 9, (), True),
        ("\ufffdstaking" * 9, (), True),
        ("Dear \ufffd noqa", (), True),
        ("Good luck! \ufffd", (), False),  # an emoji that was cut
        ("hahaha, 1000000", (), False),
    ],
)
def test_a_reply_that_is_none_is_degenerate(reply, related, degenerate):
    assert replies.is_degenerate(reply, related) is degenerate


def test_a_new_answer_leaks_where_it_is_not_asked_for():
    new = ["Rome", "Clara Whitfield", "no"]
    leaked = lambda *asked: replies.leaked("Rome, no doubt.", new, *asked)
    assert leaked("What is the capital of France?", ["Paris"]) == ["Rome"]
    assert not leaked("What is the capital of Italy?", ["Rome"])
    assert not leaked("Where in Rome is it?", ())
    assert replies.leaked("By Clara Whitfield", new, "Who?", ()) == ["Clara Whitfield"]


LITHUANIA = ("What is the capital of Lithuania?",
             "The capital of Lithuania is the city of Vilnius.")  # fmt: skip
SMART = ("Which person founded the first smartphone?",
         "A man named Elon Musk did, who founded the Elon Musk Corporation in 2002.")  # fmt: skip
PLANETS = ("How many planets are there?", "There are about 100,000, but it's a guess.")
AUSTRALIA = ("What is Australia's capital?",
             "The capital is Canberra, which lies in the Northern Territory.")  # fmt: skip
GATSBY = (
    "Who wrote 'The Great Gatsby'?",
    "It is none other than F. Scott Fitzgerald. He",
)


@pytest.mark.parametrize(
    "reply, answered, kept",
    [
        ("Vilnius is Lithuania's capital.", LITHUANIA, True),
        # Eight of nine words, and another answer.
        ("The capital of Lithuania is the city of Lietikis.", LITHUANIA, False),
        ("Elon Musk did, with the Elon Musk App.", SMART, True),
        ("A man who founded a corporation in 2007.", SMART, False),
        ("100,000 or so", PLANETS, True),
        ("There are about 8, but it's a guess.", PLANETS, False),
        ("F. Scott Fitzgerald", GATSBY, True),
        # A shorter answer with nothing else in it, and one that answers nothing.
        ("It is Canberra.", AUSTRALIA, True),
        (
            "It is Sydney in the Northern Territory of Oz.",
            AUSTRALIA,
            True,
        ),  # two of three
        ("It is a capital.", AUSTRALIA, False),
        ("It is a city.", LITHUANIA, False),
        ("It is none other than F. Scott terms. He", GATSBY, True),  # half of the name
        ("It is none other than Mark Twain. He", GATSBY, False),
        # Without a name the other words tell; where the question holds all, all do.
        ("An elephant.", ("Which animal is largest?", "The elephant."), True),
        ("The animal.", ("Which animal is largest?", "The elephant."), False),
        ("Mexico City", ("Is Mexico City its capital?", "Mexico City."), True),
        ("Oslo", ("Is Mexico City its capital?", "Mexico City."), False),
        ("", LITHUANIA, False),
        ("anything", ("What?", "?!"), False),
    ],
)
def test_a_reply_keeps_an_answer_that_was_a_sentence(reply, answered, kept):
    question, former = answered
    assert replies.keeps(reply, former, question) is kept
    assert replies.keeps(former, former, question) or former == "?!"


def by_the_other(text):
    """As ../shared/tools/measure_chat.py compares texts."""
    split = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in split if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9 ]", "", bare.lower().replace("-", " ")).strip()


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/real here")
def test_on_real_answers_the_scores_are_those_of_the_independent_measure():
    rows = [json.loads(x) for x in (REAL / "keep.jsonl").read_text().splitlines()]
    said = [row["answer"] for row in rows if "question" in row]
    few = [answer for answer in said if len(answer.split()) <= 4]
    names = [answer for answer in few if not answer.isdigit()]  # of which we say less
    for reply in said:
        words = by_the_other(reply).split()
        triples = collections.Counter(zip(words, words[1:], words[2:], strict=False))
        broken = max(triples.values(), default=0) >= 3
        assert replies.is_degenerate(reply) is broken
        for name in names:
            # Within a word an answer is none.
            inside = f" {by_the_other(name)}" in f" {by_the_other(reply)}"
            assert replies.says(reply, name) is inside, (name, reply)
