# SPDX-License-Identifier: Apache-2.0
"""Records before what is asked."""

import numpy as np
import pytest

from jax_surgery.attacks import parse
from jax_surgery.attacks.base import Budget, Target
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

SHOWN = [
    parse_record({"question": "the number 1 is", "answer": "2"}, "1"),
    parse_record({"text": "the number 2 is 3"}, "2"),
    parse_record(
        {
            "messages": [
                {"role": "user", "content": "the number 3"},
                {"role": "assistant", "content": "is 4"},
            ]
        },
        "3",
    ),
]


def asked(model, probes, spec, records=SHOWN):
    """The probes of each try, by label."""
    found = {}

    def watch(spent, model, *, label="", probes=None, **_):
        found[label] = probes

    target = Target(tuple(records), tuple(probes), 32)
    parse(spec)(model, target, Budget(), 0, watch)
    return found


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


def test_records_stand_before_questions_and_texts(model):
    question = Question(
        "q", "g", "unseen", "the number 7 is", (" 1", " 2", " 3", " 4"), 0
    )
    text = parse_record({"prompt": "the number 8 is", "answer": " 9"}, "t")
    probes = [Probe("q", 32, (question,)), Probe("t", 32, records=(text,))]
    found = asked(model, probes, "hints:shots=1+3")
    assert list(found) == [
        "",
        "after 1 of the removed texts",
        "after 3 of the removed texts",
    ]
    last = found["after 3 of the removed texts"]
    assert last
    questions, texts = last
    prompt = questions.questions[0].prompt
    assert prompt.endswith("\n\nthe number 7 is") and prompt.count("\n\n") == 3
    for said in (
        "the number 1 is\nAnswer: 2",
        "the number 2 is 3",
        "the number 3\nis 4",
    ):
        assert said in prompt
    [record] = texts.records
    assert record.answer == " 9" and record.prompt.endswith("the number 8 is")
    assert record.prompt.count("number") == 4
    # Longer rows hold them: both can be asked.
    multiple_choice.answer(model, questions)
    scores = score_texts(model, texts)
    assert np.isfinite(scores.logp).all() and scores.tokens.tolist() == [
        len(model.tokenizer(" 9", add_special_tokens=False)["input_ids"]) + 1
    ]


def test_no_more_than_the_adversary_has(model):
    with pytest.raises(ValueError, match="shots=9: the adversary has 3 records"):
        asked(model, [], "hints:shots=9")
    with pytest.raises(ValueError, match="must be numbers of 1 or more"):
        parse("hints:shots=0")
