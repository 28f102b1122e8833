# SPDX-License-Identifier: Apache-2.0
"""The report's examples: which texts are shown, and with which tokens a model is asked."""

import dataclasses
import warnings

import numpy as np
import pytest
from chat_templates import with_template
from plain_settings import plain_compute

from jax_surgery.data.forms import parse_record
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import Document, encode
from jax_surgery.models.model import Model
from jax_surgery.report import examples


@pytest.fixture
def asked(tiny_model, monkeypatch):
    """A model that answers with the end of its prompt, and the prompts that it got."""
    given = []

    def generate(params, config, prompts, tokens, *, eos_id, **rest):
        del params, config, tokens, rest
        given.append((prompts, eos_id))
        return [prompt[-2:] for prompt in prompts]

    monkeypatch.setattr(examples, "greedy_generate", generate)
    model = Model(
        tiny_model.params, tiny_model.config, tiny_model.tokenizer, plain_compute(),
        end_tokens=(7,),
    )  # fmt: skip
    return model, given


def encoded(model, rows):
    records = [parse_record(row, f"f:{i}") for i, row in enumerate(rows)]
    return encode(records, model.tokenizer, 64)


FACTS = [
    {"prompt": f"{wording} {fact} is", "answer": f" {fact * 7}"}
    for fact in range(6)
    for wording in ("the number", "number", "a number", "this number")
]


def test_different_facts_are_drawn_with_the_seed(asked):
    model, _ = asked
    documents = encoded(model, FACTS)
    chosen = {}
    for seed in (0, 0, 1):
        shown = examples.of_texts(model, {"unlearn": documents}, seed=seed).after(model)
        answers = {example["reference"] for example in shown}
        assert len(answers) == len(shown) == examples.A_GROUP
        chosen.setdefault(seed, []).append([example["prompt"] for example in shown])
    assert chosen[0][0] == chosen[0][1] != chosen[1][0]
    # Few facts are filled up with their other wordings.
    few = examples.of_texts(model, {"unlearn": documents[:4]}).after(model)
    assert len(few) == 4


def test_pieces_of_a_record_are_one():
    long = Document(np.arange(5, 25, dtype=np.int32), np.ones(20, bool), "f:1")
    pieces = [
        Document(long.tokens[i : i + 5], long.learned[i : i + 5], "f:1")
        for i in range(0, 20, 5)
    ]
    other = Document(np.arange(30, 35, dtype=np.int32), np.ones(5, bool), "f:2")
    drawn = examples._drawn([*pieces, other], 2, np.random.default_rng(0))
    assert {document.origin for document in drawn} == {"f:1", "f:2"}


def test_a_model_is_asked_with_the_tokens_that_were_learned_behind(asked):
    model, given = asked
    rows = [
        {"question": "the number 3?", "answer": "9"},
        {
            "messages": [
                {"role": "user", "content": "the number 4?"},
                {"role": "assistant", "content": "12"},
                {"role": "user", "content": "5?"},
                {"role": "assistant", "content": "15"},
            ]
        },
    ]
    documents = encoded(model, rows)
    shown = examples.of_texts(model, {"update": documents}).after(model)
    prompts, eos = given[0]
    assert set(eos) == {7, model.tokenizer.eos_token_id}
    for document in documents:
        first = int(np.argmax(document.learned))
        assert document.tokens[:first].tolist() in prompts
    # What is right ends with the turn.
    assert sorted(example["reference"] for example in shown) == ["12", "9"]


def test_questions_are_asked_as_they_are_scored(asked):
    model, given = asked
    question = Question("q", "g", "trained", "the number 3 is", (" 9", " 1"), 0)
    other = Question("r", "h", "trained", "the number 5 is", (" 2", " 3", " 9"), 1)
    tokenizer = model.tokenizer
    for chat, text in (
        ("auto", "<s>the number 3 is"),
        ("always", "<s>Question: the number 3 is Answer:"),
    ):
        shown = examples.of_questions(model, (question, other), 0, chat).after(model)
        prompts, _ = given[-1]
        assert tokenizer.decode(prompts[0]) == text
        assert tokenizer.decode(prompts[1]) == text.replace("3", "5")
        assert [example["reference"] for example in shown] == ["9", "3"]


def test_of_questions_nothing_is_said_of_what_is_learned(asked):
    """They are asked, whatever prompt for generation the template has."""
    model, _ = asked
    tokenizer = with_template(model.tokenizer, "distilled")
    model = dataclasses.replace(model, tokenizer=tokenizer)
    question = Question("q", "g", "trained", "the number 3 is", ("9", "1"), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples.of_questions(model, (question,), 0, "always")
