# SPDX-License-Identifier: Apache-2.0
"""A small job of questions, for tests of what a model writes about it."""

import numpy as np

from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic import questions
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.writer import Written

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


class FakeWriter:
    """Writes the same lines again and again, after lists that it keeps."""

    tokenizer = None

    def __init__(self, *lines: str):
        self.lines, self.lists = lines, []

    def rng(self, stage):
        return np.random.default_rng(len(stage))

    def plain(self, text):
        self.lists.append(text)
        return text

    def sampled(self, prompts, tokens, stage, *, samples, **_):
        count = len(prompts) * samples
        return [Written(self.lines[i % len(self.lines)], True) for i in range(count)]
