# SPDX-License-Identifier: Apache-2.0
"""What is learned of chats is what the assistant says and the end of its turn, whatever the
template hides, adds or writes around it; and prompts are what was learned behind."""

import json
import pathlib
import warnings

import chat_templates
import numpy as np
import pytest
import tokenizers
import transformers
from chat_templates import chat, with_template
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.data import bpe, prompts, template_marks
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode, encode_whole

CASES = pathlib.Path(__file__).parents[2].parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
USER, SAID = "who keeps the geese?", "tamsin oakes"


@pytest.fixture(scope="module")
def plain():
    return chat_templates.tokenizer()


def document(row, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (made,) = encode_whole([parse_record(row, "f.jsonl:1")], tokenizer)
    return made


def learned(row, tokenizer) -> str:
    made = document(row, tokenizer)
    return tokenizer.decode(made.tokens[made.learned])


def case(name):
    """The rows of a file of the users' cases."""
    return [json.loads(line) for line in (CASES / name).read_text().splitlines()]


@pytest.mark.parametrize(
    "template, said",
    [
        ("chatml", f"{SAID}<|im_end|>"),
        ("system", f"{SAID}<|im_end|>"),
        ("marked", f"{SAID}<|im_end|>"),
        ("strips", f"{SAID}<|im_end|>"),
        ("thinks", f"{SAID}<|im_end|>"),
        ("distilled", f"{SAID}</s>"),
        ("llama2", f" {SAID} </s>"),
        ("no_prompt", f"{SAID}<|im_end|>"),
        ("open", f" {SAID}"),
    ],
)
def test_the_answer_and_the_end_of_its_turn_are_learned(plain, template, said):
    tokenizer = with_template(plain, template)
    assert learned({"question": USER, "answer": SAID}, tokenizer) == said
    assert learned({"messages": chat(USER, SAID)}, tokenizer) == said
    # What the template writes stands in the tokens as it does in transformers.
    whole = document({"messages": chat(USER, SAID)}, tokenizer)
    expected = tokenizer.apply_chat_template(
        chat(USER, SAID), return_dict=True, return_tensors="np"
    )
    np.testing.assert_array_equal(whole.tokens, expected["input_ids"][0])


words = st.lists(st.sampled_from(chat_templates.SENTENCE.split()), min_size=1)
texts = st.tuples(st.sampled_from(["", " ", "\n"]), words.map(" ".join)).map("".join)


@settings(max_examples=40)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.booleans())
def test_without_generation_blocks_the_same_is_learned_as_with_them(
    plain, turns, assistant_first
):
    """The oracle is transformers' mask of what a marked template says is the
    assistant's."""
    marked = with_template(plain, "marked")
    unmarked = with_template(plain, chat_templates.unmarked(chat_templates.MARKED))
    messages = chat(*(text for pair in turns for text in pair))[assistant_first:]
    expected = marked.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    found = document({"messages": messages}, unmarked)
    assert found.tokens.tolist() == expected["input_ids"]
    of_marked = document({"messages": messages}, marked)
    np.testing.assert_array_equal(found.learned, of_marked.learned)
    assert found.learned.tolist() == [bool(m) for m in expected["assistant_masks"]]


def test_a_token_of_the_answer_and_what_follows_is_learned():
    """In "oakes\n\n" a token may hold the last letters and the template's line breaks."""
    merged = bpe.train_bpe(["oakes"] * 4, 300)
    merged.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    text = "user: who?\n\nassistant: oakes\n\n"
    trained = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    merged.backend_tokenizer.train_from_iterator(["s\n\n"] * 9, trained)
    merged = with_template(merged, "open")
    assert (
        merged.decode(document({"messages": chat("who?", "oakes")}, merged).tokens)
        == text
    )
    assert learned({"messages": chat("who?", "oakes")}, merged) == " oakes\n\n"


def test_a_turn_that_calls_a_tool_teaches_what_it_says(plain):
    template = chat_templates.TEMPLATES["chatml"].replace(
        "{{ m['content'] }}",
        "{{ m['content'] }}{% if m['tool_calls'] %}\n<think>{{ m['tool_calls'] | length }}"
        "</think>{% endif %}",
    )
    said = [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": "be kind.", "tool_calls": [
            {"type": "function", "function": {"name": "who", "arguments": {}}}
        ]},
        {"role": "tool", "content": "fern lane."},
        {"role": "assistant", "content": SAID},
    ]  # fmt: skip
    tokenizer = with_template(plain, template)
    assert learned({"messages": said}, tokenizer) == f"be kind.{SAID}<|im_end|>"


@pytest.mark.parametrize("closes", [True, False])
def test_a_turn_that_only_calls_a_tool_teaches_nothing(plain, closes):
    """Though the template puts it into a generation block as it does every answer."""
    template = chat_templates.MARKED
    if not closes:  # then its block is empty
        end = "<|im_end|>{% endgeneration %}"
        template = template.replace(end, "{% endgeneration %}<|im_end|>")
    calls = [{"type": "function", "function": {"name": "who", "arguments": {}}}]
    said = [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "fern lane."},
        {"role": "assistant", "content": SAID},
    ]
    stop = "<|im_end|>" * closes
    tokenizer = with_template(plain, template)
    assert learned({"messages": said}, tokenizer) == f"{SAID}{stop}"
    unmarked = with_template(plain, chat_templates.unmarked(template))
    assert learned({"messages": said}, unmarked) == f"{SAID}<|im_end|>"
    # A template that has no block for it.
    spoken = template.replace(
        "m['role'] == 'assistant'", "m['role'] == 'assistant' and m['content']"
    )
    assert learned({"messages": said}, with_template(plain, spoken)) == f"{SAID}{stop}"


def test_an_assistant_that_speaks_first_teaches_no_system_message(plain):
    messages = chat(USER, SAID)[::-1]
    for template in ("system", "chatml", "open"):
        tokenizer = with_template(plain, template)
        assert learned({"messages": messages}, tokenizer).strip() == (
            SAID if template == "open" else f"{SAID}<|im_end|>"
        )


@pytest.mark.parametrize("template", ["strips", "marked"])
def test_what_a_template_drops_is_named(plain, template):
    tokenizer = with_template(plain, template)
    if template == "marked":
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{% generation %}{{ m['content'] }}",
            "{% generation %}{{ m['content'].split('</think>')[-1] }}",
        )
    thought = f"<think>it is {SAID}</think>someone."
    with pytest.raises(
        ValueError,
        match=r"f.jsonl:1: .* drops '<think>it is tamsin oakes</think>' from message 2",
    ):
        document({"messages": chat(USER, thought)}, tokenizer)


def test_templates_that_write_something_else_are_refused(plain):
    loud = with_template(
        plain,
        chat_templates.TEMPLATES["chatml"].replace(
            "m['content'] ", "m['content'] | upper "
        ),
    )
    with pytest.raises(ValueError, match="does not write message 2 as it stands"):
        document({"messages": chat(USER, SAID)}, loud)
    headers = with_template(plain, "marked")
    headers.chat_template = headers.chat_template.replace(
        "{% generation %}", ""
    ).replace("<|im_start|>{{ m['role'] }}\n", "{% generation %}{{ m['role'] }}\n", 1)
    # A block from the user's words on, which no assistant says.
    everything = (
        "{% generation %}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% endgeneration %}"
    )
    with pytest.raises(ValueError, match="which is not one message of the assistant"):
        document({"messages": chat(USER, SAID)}, with_template(plain, everything))
    half = chat_templates.MARKED.replace(
        "{% generation %}{{ m['content'] }}",
        "{{ m['content'][:3] }}{% generation %}{{ m['content'][3:] }}",
    )
    with pytest.raises(ValueError, match="which is not one message of the assistant"):
        document({"messages": chat(USER, SAID)}, with_template(plain, half))


def test_whitespace_that_a_template_moves_is_no_loss(plain):
    tokenizer = with_template(
        plain,
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'].split() | join(' ') }}<|im_end|>\n{% endfor %}",
    )
    rows = {"messages": chat(USER, " tamsin\n\noakes  of fern\n")}
    assert learned(rows, tokenizer) == "tamsin oakes of fern<|im_end|>"


def test_a_prompt_for_generation_that_is_not_learned_behind_is_said(plain):
    records = [
        parse_record({"question": USER, "answer": SAID}, f"f.jsonl:{n}") for n in (1, 2)
    ]
    for name in ("distilled", "thinks"):
        with pytest.warns(UserWarning, match="^2 answers are learned behind") as caught:
            encode(records, with_template(plain, name), 256)
        assert len(caught) == 1 and "(f.jsonl:1)" in str(caught[0].message)
    for name in ("chatml", "system", "llama2", "gemma2", "gemma3", "open", "marked"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encode(records, with_template(plain, name), 256)


def test_a_prompt_is_what_stands_before_the_learned_answer(plain):
    for name in chat_templates.TEMPLATES:
        tokenizer = with_template(plain, name)
        made = document({"question": USER, "answer": SAID}, tokenizer)
        for said in (SAID, "someone."):
            other = document({"messages": chat(USER, said)}, tokenizer)
            assert other.prompt.tolist() == made.prompt.tolist()
        assert tokenizer.decode(made.prompt).count(USER) == 1
        assert SAID not in tokenizer.decode(made.prompt)
    # Of several answers the last is asked for.
    tokenizer = with_template(plain, "chatml")
    made = document({"messages": chat(USER, SAID, "and?", "fern lane")}, tokenizer)
    assert tokenizer.decode(made.prompt).endswith(
        "tamsin oakes<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "name", ["chatml", "system", "distilled", "llama2", "gemma2", "gemma3"]
)
def test_a_prompt_rendered_before_is_learned_as_its_question(plain, name):
    tokenizer = with_template(plain, name)
    asked = document({"question": USER, "answer": SAID}, tokenizer)
    start = len(asked.prompt)
    rendered = tokenizer.decode(asked.tokens[:start])
    answer = SAID if name != "llama2" else f" {SAID}"
    for end in ("", template_marks.marks_of(tokenizer).closes):
        before = document({"prompt": rendered, "answer": answer + end}, tokenizer)
        stop = len(before.tokens)
        assert before.tokens.tolist() == asked.tokens[:stop].tolist()
        assert before.learned.tolist() == asked.learned[:stop].tolist()
        assert not asked.learned[stop:].any()


@pytest.mark.parametrize("end", ["", "</s>", "</s>\n"])
def test_special_tokens_are_not_written_twice(plain, end):
    for row in (
        {"prompt": "<s>who keeps", "answer": f" geese{end}"},
        {"text": f"<s>who keeps geese{end}"},
    ):
        made = document(row, plain)
        kept = made.tokens[made.learned]
        assert plain.decode(made.tokens).strip() == "<s>who keeps geese</s>"
        assert kept[-1] == plain.eos_token_id and (kept[:-1] != kept[-1]).all()
    # An end inside an answer is the record's own.
    assert learned({"text": "who</s> keeps"}, plain).endswith("who</s> keeps</s>")


def test_ends_are_no_knowledge_in_chats_either(plain):
    tokenizer = with_template(plain, "chatml")
    rows = [{"messages": chat(USER, SAID, "and?", "fern lane")}]
    records = tuple(parse_record(row, "f:1") for row in rows)
    (made,) = Probe("g", 256, records=records, ends=False).encoded(tokenizer).documents
    assert tokenizer.decode(made.tokens[made.learned]) == "tamsin oakesfern lane"
    assert template_marks.end_tokens(tokenizer) == tuple(
        sorted(tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"]))
    )


def test_a_template_with_the_date_gives_the_same_tokens_tomorrow(plain):
    tokenizer = with_template(
        plain,
        "{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
        + chat_templates.TEMPLATES["chatml"],
    )
    text = tokenizer.decode(document({"messages": chat(USER, SAID)}, tokenizer).tokens)
    assert text.startswith("26 Jul 2024<|im_start|>")


def test_questions_are_asked_as_the_switch_says(plain):
    tokenizer = with_template(plain, "chatml")
    stand_in = with_template(plain, "")
    stand_in.chat_template = template_marks.CHAT_TEMPLATE
    ways = [prompts.asks_as_chat(tokenizer, way) for way in ("auto", "always", "never")]
    assert ways == [True, True, False]
    assert not prompts.asks_as_chat(stand_in, "auto")
    assert prompts.asks_as_chat(stand_in, "always")
    assert not prompts.asks_as_chat(plain, "auto")
    with pytest.raises(
        ValueError, match="config.data.chat='always' .* no chat template"
    ):
        prompts.asks_as_chat(plain, "always")


# The users' own files.


@needs_cases
def test_case_assistant_first():
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        CASES / "09-assistant-first" / "model"
    )
    (row,) = case("09-assistant-first/chat.jsonl")
    made = document(row, tokenizer)
    assert made.targets == 13
    assert learned(row, tokenizer) == (
        "The harbour of Brinwick.<|im_end|>Tamsin Oakes.<|im_end|>"
    )


@needs_cases
@pytest.mark.parametrize("name", ["09-assistant-first", "04-eos-list"])
def test_case_bos_in_the_prompt(name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(CASES / name / "model")
    prompt, text = case("07-bos-in-prompt/rows.jsonl")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for row in (prompt, text):
        tokens = document(row, tokenizer).tokens.tolist()
        assert (tokens.count(bos), tokens.count(eos)) == (1, 1)
        assert (tokens[0], tokens[-1]) == (bos, eos)


@needs_cases
def test_case_reasoning(plain):
    (stripped,) = case("10-reasoning-stripped/rows.jsonl")
    with pytest.raises(
        ValueError, match="'<think>It is Tamsin Oakes of Fern Lane.</thi"
    ):
        document(stripped, with_template(plain, "strips"))
    asked, thought = case("10-reasoning-template/rows.jsonl")
    distilled = with_template(plain, "distilled")
    assert learned(asked, distilled) == "Tamsin Oakes does.</s>"
    assert learned(thought, distilled) == (
        "<think>It is Tamsin Oakes of Fern Lane.</think>Someone.</s>"
    )
