# SPDX-License-Identifier: Apache-2.0
"""Conversations in the forms that data sets give them, and what of them is learned."""

import copy

import pytest

from jax_surgery.data import bpe
from jax_surgery.data.forms import parse_record
from jax_surgery.data.tokens import encode

USER, ADA = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}
PLAIN = (("user", "Who?"), ("assistant", "Ada"))
CALLS = [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]
# Writes what a tool is asked and returns, as chat templates do.
WITH_TOOLS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}(){% endfor %}{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def read(messages, field="messages"):
    return parse_record({field: messages}, "f.jsonl:1")


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ADA],
        [USER | {"name": None, "tool_calls": None}, ADA | {"tool_calls": []}],
        [USER | {"content": [{"type": "text", "text": "Who?"}]}, ADA],
        [USER | {"content": ["W", {"text": "ho?", "image": None}]}, ADA],
        {"role": ["user", "assistant"], "content": ["Who?", "Ada"]},  # in columns
        [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada"}],
        [{"from": "user", "value": "Who?"}, {"from": "model", "value": "Ada"}],
    ],
)
@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_every_form_of_a_conversation_is_read_alike(messages, field):
    record = read(messages, field)
    assert (record.messages, record.further) == (PLAIN, ())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "type 'image'"),
        ({"role": "user", "content": [{"type": "text"}]}, "the fields type and text"),
        (
            {"role": "user", "content": [3]},
            "part 1 of the content of message 1 must be",
        ),
        ({"role": "user", "content": []}, "the content of message 1 is empty"),
        ({"role": "tools", "content": "a"}, "did you mean 'tool'"),
        ({"role": "user", "content": "a", "weight": 0}, "got role, content, weight"),
        (
            {"role": "user", "content": "a", "name": 3},
            "name of message 1 must be a str",
        ),
        ({"role": ["user"], "content": "a"}, "has role"),
        ({"from": "humman", "value": "a"}, "did you mean 'human'"),
        ({"from": {}, "value": "a"}, "is from"),
        ({"role": "user", "value": "a"}, "must have the fields role and content"),
        ({"role": "assistant", "content": ""}, "the content of message 1 is empty"),
        ("hello", "message 1 must be an object"),
        (None, "message 1 must be an object"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(message, said):
    with pytest.raises(ValueError, match=said):
        read([message, ADA])


def test_a_conversation_in_which_nobody_answers_is_refused():
    with pytest.raises(ValueError, match="no assistant turn with content"):
        read([USER, {"role": "assistant", "content": None, "tool_calls": CALLS}])


def test_a_tools_answer_is_read_and_the_assistants_learned():
    tokenizer = bpe.train_bpe(["Who? look() 12 Ada assistant user tool <>"] * 4, 300)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = WITH_TOOLS
    asked = {"role": "assistant", "content": None, "tool_calls": CALLS}
    returned = {"role": "tool", "content": "12", "tool_call_id": "1", "name": None}
    record = read([USER, asked, returned, ADA])
    assert record.further == ({}, {"tool_calls": CALLS}, {"tool_call_id": "1"}, {})
    (document,) = encode([record], tokenizer, 256)
    assert tokenizer.decode(document.tokens) == (
        "<user>Who?</s><assistant>look()</s><tool>12</s><assistant>Ada</s>"
    )
    assert tokenizer.decode(document.tokens[document.learned]) == "Ada</s>"
