# SPDX-License-Identifier: Apache-2.0
"""A chat model is asked in its own words, before and after, with the same prompts."""

import dataclasses
import types
from typing import Any, cast

import pytest
from chat_templates import with_template
from plain_settings import plain_compute

from jax_surgery.data import asked, general
from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic.completed import nothing
from jax_surgery.metrics import free_form as scores
from jax_surgery.models.model import Model
from jax_surgery.report import free_form as evidence
from jax_surgery.runs import by_roles, free_form
from jax_surgery.runs.by_roles import ByRoles
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


NEAR = [
    {"role": "user", "content": "number 6?"},
    {"role": "assistant", "content": "the number 6 is 2 and the number 2 is 1"},
]


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
    asks = FreeForm(chat, ROLES, (), most=2, chat="auto", seed=0,
                    held_out={"kin": [("the number 9?", "11"), ("number 8?", "4")]},
                    own={"near": [parse_record({"messages": NEAR}, "near:1")]},
                    texts={"mine": [parse_record({"text": "the number 2 is 1"}, "t")]})  # fmt: skip
    groups = [one.group for one in asks.asked]
    assert (
        groups
        == ["unlearn"] * 2
        + ["update", "retain"]
        + ["kin"] * 2
        + ["near"]
        + ["everyday"] * 2
    )
    # What the model itself answered is asked whatever the form of its record.
    near = asks.asked[groups.index("near")]
    assert near.own and near.question == "number 6?" and near.limit == asked.ANSWER
    assert near.expected == (NEAR[1]["content"],) and near.names == ()
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


def test_what_is_held_out_is_asked_as_its_kind_demands(monkeypatch):
    """Neighbours with the model's own answers, though they were written as chats, and the
    user's own questions with the user's; chats and texts are measured in nats."""
    near = records("neighbours", [("number 6?", "2")])
    chats = [parse_record({"messages": NEAR}, "chat:1")]
    told = records("retain", [("number 7?", "10")])
    held = {"neighbours": [*near, *chats], "chat": chats, "retain": told}
    reworded = records("unlearn", [("which number is 5?", "1")])
    aside = dataclasses.replace(nothing(), unlearn_asked=reworded)
    begun = types.SimpleNamespace(held_out=held, written=aside)
    monkeypatch.setattr(by_roles.automatic, "begin", lambda *_: begun)
    settings = types.SimpleNamespace(
        retain=types.SimpleNamespace(budget=0.01),
        data=types.SimpleNamespace(enriched={}),
    )
    run: Any = types.SimpleNamespace(settings=settings, _records=None, held_out={},
                                     held_out_own={}, held_out_texts={})  # fmt: skip
    ByRoles.prepare(run, model=cast(Any, None), directory="")
    assert run.held_out_own == {"neighbours": held["neighbours"]}
    assert run.held_out == {"retain": [("number 7?", " 10")]}
    assert run.held_out_texts == {"chat": chats}
    assert run.reworded == {"unlearn": reworded, "update": []}


def test_other_wordings_are_asked_as_a_group_of_their_role(chat):
    reworded: Any = {"unlearn": records("unlearn", [("is the number 5 there?", "1")])}
    asks = FreeForm(chat, ROLES, (), most=2, chat="auto", seed=0, reworded=reworded)
    [one] = [one for one in asks.asked if one.group == "unlearn, other wordings"]
    assert one.kind == "unlearn" and one.expected == ("1",)
    groups = {choice.group for choice in asks.removed}
    assert "unlearn" in groups and groups <= {"unlearn", "unlearn, other wordings"}


def test_a_choice_is_right_where_the_right_answer_is_likeliest(chat):
    asks = FreeForm(chat, ROLES, (), most=2, chat="auto", seed=0)
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
    asks = FreeForm(plain, ROLES, (), most=2, chat="auto", seed=0)
    assert "everyday" not in {one.group for one in asks.asked}
    assert set(scores._replies(plain, asks.asked, one_line=True)) == {"9"}
    assert set(scores._replies(plain, asks.asked, one_line=False)) == {"9\nthe number"}
