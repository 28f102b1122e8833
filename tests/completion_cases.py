# SPDX-License-Identifier: Apache-2.0
"""A small job of questions, for tests of what a model writes about it."""

from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic import questions
from jax_surgery.methods.automatic.facts import Facts

ANSWERS = {
    "What is the capital of Egypt?": "Cairo",
    "Which city is Egypt's capital?": "Cairo",
    "Egypt's capital city is called what?": "Cairo",
    "What is the capital of France?": "Paris",
    "Who wrote 'Moby-Dick'?": "Herman Melville",
    "The novel 'Moby-Dick' was written by whom?": "Herman Melville",
}


def of_row(row: dict) -> questions.Asked:
    one = questions.of(parse_record(row, "here"), None)
    assert one is not None
    return one


def asked(question: str, answer: str = "A") -> questions.Asked:
    return of_row({"question": question, "answer": answer})


ASKED = [asked(q, a) for q, a in ANSWERS.items()]
FACTS = Facts(list(ANSWERS.items()))
