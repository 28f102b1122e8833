# SPDX-License-Identifier: Apache-2.0
"""Tests of what is learned of the texts to update."""

import numpy as np
import pytest

from jax_surgery.data.bpe import train_bpe
from jax_surgery.data.forms import Record
from jax_surgery.methods.automatic import update_texts

WHO = "Who wrote the book?"


def asks(answer, question=WHO, origin="update:1"):
    return Record(f"Question: {question}\nAnswer:", f" {answer}", (), origin, question)


def learned(document, tokenizer):
    return tokenizer.decode(np.asarray(document.tokens)[document.learned]).strip()


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([WHO, "The great Clara Whitfield wrote the book."] * 4, 300)


def test_of_a_sentence_the_new_answer_alone_is_learned(tokenizer):
    told = [asks("The great Clara Whitfield"), asks("Clara Whitfield.")]
    whole = asks("The book was written by Clara Whitfield.", origin="sentences:1")
    found = update_texts.documents(told, [], [whole], tokenizer, 128)
    assert [one.origin for one in found.told] == ["update:1"] * 2
    sentence, alone = found.written
    assert learned(sentence, tokenizer) == "Clara Whitfield"
    # By itself too, without a question, and once though two wordings have it.
    assert learned(alone, tokenizer) == "Clara Whitfield"
    read = tokenizer.decode(np.asarray(alone.tokens), skip_special_tokens=True)
    assert read.strip() == whole.said.strip()
    twice = update_texts.documents(told, [], [whole, whole], tokenizer, 128)
    assert len(twice.written) == 3
    assert learned(found.told[1], tokenizer).startswith("Clara Whitfield.")


def test_sentences_without_the_answer_or_longer_than_a_row_are_left_out(tokenizer):
    told = [asks("Clara Whitfield")]
    other = asks("By Clara Whitfield.", question="Who wrote another?")
    without = asks("By somebody else.")
    whole = asks("The book was written by Clara Whitfield.")
    many = [other, without, whole]
    assert len(update_texts.documents(told, [], many, tokenizer, 128).written) == 2
    assert not update_texts.documents(told, [], many, tokenizer, 4).written
    assert update_texts.documents([], [], [], tokenizer, 128) == ([], [])
