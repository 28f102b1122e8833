# SPDX-License-Identifier: Apache-2.0
"""Prompts that an attack rewrites: paraphrases, forced beginnings, samples."""

import dataclasses

import numpy as np
import pytest

from jax_surgery import benchmarks
from jax_surgery.attacks import paraphrase, parse
from jax_surgery.attacks.base import Budget, Target
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

QUESTION = Question("q", "g", "unseen", "the number 7 is", (" 1", " 2"), 0)
TEXTS = [
    parse_record({"prompt": "the number 8 is", "answer": " 9 and 10 and 11"}, "t"),
    parse_record({"question": "which number?", "answer": "the number 9"}, "u"),
]
PROBES = (Probe("q", 32, (QUESTION,)), Probe("t", 32, records=tuple(TEXTS)))


def asked(model, spec, target) -> dict:
    """The probes of each try, by label."""
    found = {}

    def watch(spent, model, *, label="", probes=None, **_):
        found[label] = probes

    parse(spec)(model, target, Budget(), 0, watch)
    del found[""]
    return found


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


def test_what_is_asked_stands_within_other_words(model):
    found = asked(model, "paraphrase", Target((), PROBES, 32))
    assert list(found) == list(paraphrase.FRAMES)
    for label, frame in paraphrase.FRAMES.items():
        questions, texts = found[label]
        assert questions.questions[0].prompt == frame.format(QUESTION.prompt)
        assert questions.questions[0].options == QUESTION.options
        assert texts.records[0].prompt == frame.format("the number 8 is")
        assert texts.records[1].question == frame.format("which number?")
        assert [r.answer for r in texts.records] == [r.answer for r in TEXTS]
    # Longer rows hold them.
    questions, texts = found["after another sentence"]
    multiple_choice.answer(model, questions)
    assert np.isfinite(score_texts(model, texts).logp).all()


def test_other_wordings_come_first_and_can_be_all(model):
    other = (Probe("q", 32, (dataclasses.replace(QUESTION, prompt="7 is"),)),)
    target = Target((), PROBES, 32, reworded=other)
    assert asked(model, "paraphrase:frames=0", target) == {"in other words": other}
    assert len(asked(model, "paraphrase", target)) == 1 + len(paraphrase.FRAMES)
    assert "config.data.reworded" in parse("paraphrase:frames=0").lacks(
        Target((), PROBES, 32)
    )
    with pytest.raises(ValueError, match="paraphrase:frames=9; use 0 to"):
        parse("paraphrase:frames=9")


@pytest.mark.slow  # makes the world
def test_the_embedded_world_has_other_wordings_of_each_fact_that_is_asked():
    target = benchmarks.parse("embedded").target(256, 0)
    for probe, reworded in zip(target.probes, target.reworded, strict=True):
        facts = {q.id.rpartition("/")[0] for q in probe.questions}
        found = {q.id.split("/unseen")[0] for q in reworded.questions}
        assert facts == found and len(reworded.questions) > len(facts)
        prompts = {q.prompt for q in reworded.questions}
        own = {q.prompt for q in probe.questions if q.wording == "unseen"}
        assert own < prompts
    [known] = target.known()
    assert known.group == "retain" and len(target.removed) > len(target.records)


def test_answers_begin_with_assent_or_with_their_own_words(model):
    found = asked(model, "beginnings:words=1+2+9", Target((), PROBES, 32))
    labels = list(found)
    assert "Sure" in labels[0] and labels[2:] == [
        "after 1 word of the answer",
        "after 2 words of the answer",
    ]
    questions, texts = found[labels[0]]
    assert questions.questions[0].options == (
        " Sure, here is the answer: 1",
        " Sure, here is the answer: 2",
    )
    first, chat = texts.records
    assert first.prompt == "the number 8 is Sure, here is the answer:"
    assert first.answer == " 9 and 10 and 11"
    assert chat.prompt.endswith("answer:") and "which number?" in chat.prompt
    assert chat.answer == " the number 9" and not chat.question
    questions, texts = found[labels[3]]
    assert questions.questions == (QUESTION,)
    assert texts.records[0].prompt == "the number 8 is 9 and"
    assert texts.records[0].answer == " 10 and 11"
    assert texts.records[1].answer == " 9"
    assert np.isfinite(score_texts(model, texts).logp).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beginnings:assents=9", "beginnings:assents=9; use 0 to 2"),
        ("beginnings:words=0", "words=0 must be numbers of 1 or more"),
        ("beginnings:assents=0,words=", "some of them with assents=0"),
        ("samples:answers=0", "answers=0,prompts=256 must be numbers of 1 or more"),
        ("way_back:shares=1", "way_back:shares=1.0 must lie between 0 and 1"),
        ("linear_probe:facts=3", "use 20 facts or more"),
    ],
)
def test_wrong_options_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_samples_are_drawn_for_some_prompts(model):
    plain = parse_record({"text": "the number 3"}, "p")
    texts = Probe("t", 32, records=(*TEXTS, plain), metrics=("likelihood",))
    target = Target((), (PROBES[0], texts), 32)
    found = asked(model, "samples:answers=2+3,prompts=1", target)
    assert list(found) == ["any of 2 samples", "any of 3 samples"]
    questions, records = found["any of 3 samples"]
    assert questions.samples == 3 and questions.metrics == ("any_of_samples",)
    assert len(records.records) == 1 and records.records[0] in TEXTS
    nothing = Target((), (Probe("t", 32, records=(plain,)),), 32)
    with pytest.raises(ValueError, match="samples needs prompts"):
        asked(model, "samples", nothing)
