# SPDX-License-Identifier: Apache-2.0
"""Which tokens there are, and exactly which of them are learned."""

import copy
import itertools
import re
import warnings

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.data import bpe
from jax_surgery.data.forms import parse_record
from jax_surgery.data.tokens import Document, encode, split

SENTENCE = "who is ada? she lives in rome and likes tea. capital: paris"
WORDS = SENTENCE.split(" ")
LLAMA_LIKE = (  # no generation blocks; the assistant's turn closes with eos
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    " {{ m['content'] }}{{ eos_token }}{% else %}"
    "[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
unicode_text = st.text(
    st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20
).filter(str.strip)


@pytest.fixture(scope="module")
def chat_tokenizer():
    return bpe.train_bpe([SENTENCE] * 4, 400)


@pytest.fixture(scope="module")
def tokenizer(chat_tokenizer):
    plain = copy.deepcopy(chat_tokenizer)
    plain.chat_template = None
    return plain


def documents(rows, tokenizer, context=4096):
    records = [parse_record(row, f"f.jsonl:{i}") for i, row in enumerate(rows, 1)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*without a space.*")
        return encode(records, tokenizer, context)


def learned_text(document, tokenizer):
    return tokenizer.decode(document.tokens[document.learned])


def runs_of(learned):
    """How many stretches of learned tokens there are."""
    return int((np.diff(np.concatenate([[0], learned.astype(int)])) == 1).sum())


def test_a_text_is_learned_to_its_eos(tokenizer):
    (document,) = documents([{"text": "ada lives in rome"}], tokenizer)
    assert document.tokens.dtype == np.int32
    assert document.tokens[0] == tokenizer.bos_token_id
    assert document.tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(document.tokens[1:-1]) == "ada lives in rome"
    assert document.learned.tolist() == [False] + [True] * (len(document.tokens) - 1)
    assert document.origin == "f.jsonl:1"


def test_a_tokenizer_without_bos_and_eos_gets_none(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    (document,) = documents([{"text": "ada lives"}], bare)
    assert tokenizer.decode(document.tokens) == "ada lives"
    assert document.targets == len(document.tokens) - 1


@settings(max_examples=60)
@given(unicode_text, unicode_text)
def test_exactly_what_ends_in_the_answer_is_learned(tokenizer, prompt, answer):
    (document,) = documents([{"prompt": prompt, "answer": answer}], tokenizer)
    body, learned = document.tokens[1:-1], document.learned[1:-1]
    border = int((~learned).sum())
    assert learned[border:].all()  # one stretch, at the end
    assert document.learned[-1]  # the eos: the model learns to stop
    assert tokenizer.decode(body) == prompt + answer
    # All of the answer is learned, and of the prompt only what one token straddles.
    assert tokenizer.decode(body[border:]).endswith(answer)
    assert prompt.startswith(tokenizer.decode(body[:border]))
    assert (prompt + answer).startswith(tokenizer.decode(body[:border]))
    assert len(tokenizer.decode(body[: border + 1])) > len(prompt) or "\ufffd" in (
        tokenizer.decode(body[: border + 1])
    )


def test_a_token_that_straddles_the_border_is_learned(tokenizer):
    assert len(tokenizer.encode("cap", add_special_tokens=False)) == 1
    (document,) = documents([{"prompt": "ca", "answer": "p"}], tokenizer)
    assert document.learned.tolist() == [False, True, True]
    assert tokenizer.decode(document.tokens[1:2]) == "cap"


def test_offsets_without_spaces_change_nothing(chat_tokenizer, tokenizer):
    rows = [
        {"prompt": "capital:", "answer": "  \n paris"},
        {"prompt": "capital:  ", "answer": "paris"},
        {"question": "who is ada?", "answer": "tea"},
    ]
    for original in (tokenizer, chat_tokenizer):
        trimmed = copy.deepcopy(original)
        trimmed.backend_tokenizer.post_processor = tokenizers.processors.ByteLevel(
            trim_offsets=True
        )
        for a, b in zip(
            documents(rows, original), documents(rows, trimmed), strict=True
        ):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.learned, b.learned)


def test_pad_may_equal_eos(tokenizer):
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token
    rows = [{"text": "ada lives"}, {"prompt": "who", "answer": " ada"}]
    for a, b in zip(documents(rows, tokenizer), documents(rows, same), strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.learned, b.learned)


@settings(max_examples=40)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=3))
def test_the_assistant_is_found_with_and_without_generation_blocks(
    chat_tokenizer, turns
):
    unmarked = copy.deepcopy(chat_tokenizer)
    unmarked.chat_template = re.sub(
        r"\{% (end)?generation %\}", "", chat_tokenizer.chat_template
    )
    messages = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    (marked,) = documents([{"messages": messages}], chat_tokenizer)
    (found,) = documents([{"messages": messages}], unmarked)
    np.testing.assert_array_equal(marked.tokens, found.tokens)
    np.testing.assert_array_equal(marked.learned, found.learned)
    assert learned_text(marked, chat_tokenizer) == "".join(
        f" {answer}</s>" for _, answer in turns
    )
    assert runs_of(marked.learned) == len(turns)


def test_a_system_message_and_another_template(tokenizer):
    llama = copy.deepcopy(tokenizer)
    llama.chat_template = LLAMA_LIKE
    messages = [
        {"role": "system", "content": "she likes tea."},
        {"role": "user", "content": "who is ada?"},
        {"role": "assistant", "content": "ada lives"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "in rome"},
    ]
    (document,) = documents([{"messages": messages}], llama)
    assert tokenizer.decode(document.tokens) == (
        "<s>[INST] she likes tea. [/INST][INST] who is ada? [/INST] ada lives</s>"
        "[INST] and? [/INST] in rome</s>"
    )
    assert learned_text(document, tokenizer) == " ada lives</s> in rome</s>"


def test_templates_that_cannot_tell_the_assistant_are_refused(tokenizer):
    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = "{{ messages | length }}" + LLAMA_LIKE
    user, said = (
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "ada"},
    )
    with pytest.raises(ValueError, match=r"f.jsonl:1: .*renders message 2 in another"):
        documents([{"messages": [user, said, user]}], rewriting)
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match=r"f.jsonl:1: .*no system role"):
        documents([{"messages": [user, said]}], refusing)
    silent = copy.deepcopy(tokenizer)
    silent.chat_template = (
        "x{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    )
    with pytest.raises(ValueError, match="mark no text"):
        documents([{"messages": [user, said]}], silent)
    with pytest.raises(ValueError, match="no chat template; set"):
        documents([{"messages": [user, said]}], tokenizer)


@pytest.mark.parametrize("chat", [True, False])
def test_a_question_begins_as_its_prompt_and_learns_its_answer(
    chat_tokenizer, tokenizer, chat
):
    used = chat_tokenizer if chat else tokenizer
    (document,) = documents([{"question": "who is ada?", "answer": "tea"}], used)
    (other,) = documents([{"question": "who is ada?", "answer": "none"}], used)
    prompt = document.prompt.tolist()
    assert other.prompt.tolist() == prompt
    assert "who is ada?" in used.decode(prompt)
    assert not document.learned[: len(prompt)].any()
    assert document.learned[len(prompt) :].all()
    assert learned_text(document, used) == " tea</s>"


@given(st.integers(2, 60), st.integers(2, 20), st.randoms(use_true_random=False))
def test_a_split_keeps_every_target_exactly_once(length, context, random):
    whole = Document(
        np.arange(length, dtype=np.int32),
        np.asarray([random.random() < 0.5 for _ in range(length)]),
        "f:1",
    )
    pieces = split(whole, context)
    assert all(2 <= len(p.tokens) <= context for p in pieces)
    targets = [t for p in pieces for t in p.tokens[1:][p.learned[1:]]]
    assert targets == whole.tokens[1:][whole.learned[1:]].tolist()
    joined = [pieces[0].tokens, *(p.tokens[1:] for p in pieces[1:])]
    np.testing.assert_array_equal(np.concatenate(joined), whole.tokens)
    for before, after in itertools.pairwise(pieces):
        assert before.tokens[-1] == after.tokens[0]  # its context, not its target
        assert not after.learned[0]


def test_one_warning_counts_what_was_split_and_dropped(tokenizer):
    long = " ".join(WORDS * 3)
    rows = [{"text": long}, {"prompt": long, "answer": " tea"}, {"text": "ada"}]
    with pytest.warns(UserWarning, match="2 of 3 texts are longer") as caught:
        made = documents(rows, tokenizer, context=16)
    assert len(caught) == 1
    said = str(caught[0].message)
    pieces, dropped = (
        int(re.search(pattern, said)[1])
        for pattern in (r"into (\d+) pieces", r"(\d+) pieces hold nothing to learn")
    )
    assert pieces - dropped == len(made) - 1  # the short text is no piece
    assert dropped > 2
    assert "first f.jsonl:1" in said
    assert "first of f.jsonl:2" in said
    assert all(document.targets for document in made)


def test_texts_that_fit_warn_of_nothing(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        documents([{"text": "ada lives"}, {"prompt": "a", "answer": " b"}], tokenizer)


def test_glued_answers_are_warned_of(tokenizer):
    record = parse_record({"prompt": "ada lives in", "answer": "rome"}, "f.jsonl:1")
    with pytest.warns(UserWarning, match="begin the answer with a space"):
        encode([record], tokenizer, 64)


def test_what_cannot_be_encoded(tokenizer):
    record = parse_record({"text": "ada"}, "f.jsonl:1")
    with pytest.raises(ValueError, match="context=1 tokens; use 2"):
        encode([record], tokenizer, 1)
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    single = parse_record({"text": "cap"}, "f.jsonl:1")
    with (
        pytest.warns(UserWarning, match="1 pieces hold nothing"),
        pytest.raises(ValueError, match="1 records hold no token to learn"),
    ):
        encode([single], bare, 8)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="fast tokenizer"):
        encode([record], Slow(), 8)
