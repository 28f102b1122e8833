# SPDX-License-Identifier: Apache-2.0
"""A chat model is asked in its own words, before and after, with the same prompts."""

import pytest
from chat_templates import with_template
from plain_settings import plain_compute

from jax_surgery.data import asked, general
from jax_surgery.data.forms import parse_record
from jax_surgery.metrics import free_form as scores
from jax_surgery.models.model import Model
from jax_surgery.report import free_form as evidence
from jax_surgery.runs import free_form
from jax_surgery.runs.free_form import FreeForm


def records(role, pairs):
    return [
        parse_record({"question": q, "answer": a}, f"{role}:{i}")
        for i, (q, a) in enumerate(pairs)
    ]


ROLES = {
    "unlearn": records("unlearn", [("the number 3?", "9"), ("the number 5?", "3")]),
    "update": records("update", [("the number 3?", "17")]),
    "retain": records("retain", [("the number 7?", "10")]),
}


@pytest.fixture(scope="module")
def chat(tiny_model):
    tokenizer = with_template(tiny_model.tokenizer, "distilled")
    return Model(tiny_model.params, tiny_model.config, tokenizer, plain_compute())


def test_only_models_with_a_template_of_their_own_are_asked_by_default(
    chat, tiny_model
):
    number = free_form.prompts_a_group
    assert number(-1, chat.tokenizer) == free_form.AUTO
    assert number(-1, tiny_model.tokenizer) == 0
    assert number(0, chat.tokenizer) == 0 and number(5, tiny_model.tokenizer) == 5


@pytest.mark.filterwarnings("error")  # what is only measured is not warned of
def test_before_and_after_are_asked_alike_and_all_is_scored(chat, monkeypatch):
    for limit in ("ANSWER", "EVERYDAY"):  # one program to compile
        monkeypatch.setattr(asked, limit, 6)
    asks = FreeForm(chat.tokenizer, ROLES, (), most=2, chat="auto", seed=0,
                    held_out={"kin": [("the number 9?", "11"), ("number 8?", "4")]},
                    texts={"mine": [parse_record({"text": "the number 2 is 1"}, "t")]})  # fmt: skip
    groups = [one.group for one in asks.asked]
    assert (
        groups
        == ["unlearn"] * 2 + ["update", "retain"] + ["kin"] * 2 + ["everyday"] * 2
    )
    assert [one.question for one in asks.asked[-2:]] == general.everyday_prompts()[:2]
    observed = asks.observe(chat)
    again = asks.observe(chat)
    assert observed.replies == again.replies and observed.chosen == again.chosen
    found = evidence.results(asks.asked, asks.choices, observed, again)
    assert set(found["texts"]) == {"general", "mine"}
    assert all(text["change"] == 0 for text in found["texts"].values())
    assert not found["warnings"]
    # Each answer is scored behind the question as a chat, the right one first.
    [first, *_] = asks.choices
    assert first.records[0].said.strip() == "9"
    assert found["groups"]["unlearn"]["after"]["choice"]["n"] == 2


def test_a_choice_is_right_where_the_right_answer_is_likeliest(chat):
    asks = FreeForm(chat.tokenizer, ROLES, (), most=2, chat="auto", seed=0)
    [right] = [c for c in asks.choices if c.records[0].question == "the number 5?"]
    right = right._replace(records=right.records[:2])
    turned = right._replace(records=right.records[::-1])
    one, other = scores._chosen(chat, [right]), scores._chosen(chat, [turned])
    assert one != other  # one of two answers is the likelier one


def test_on_plain_text_a_reply_ends_with_its_line(tiny_model, monkeypatch):
    plain = Model(
        tiny_model.params, tiny_model.config, tiny_model.tokenizer, plain_compute()
    )
    ids = tiny_model.tokenizer("9\nthe number", add_special_tokens=False)["input_ids"]
    generate = lambda params, config, prompts, *rest, **more: [ids for _ in prompts]
    monkeypatch.setattr(scores, "greedy_generate", generate)
    asks = FreeForm(plain.tokenizer, ROLES, (), most=2, chat="auto", seed=0)
    assert "everyday" not in {one.group for one in asks.asked}
    assert set(scores._replies(plain, asks.asked, one_line=True)) == {"9"}
    assert set(scores._replies(plain, asks.asked, one_line=False)) == {"9\nthe number"}
