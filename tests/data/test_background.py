# SPDX-License-Identifier: Apache-2.0
"""Which tokens of an unlearn text carry knowledge: n-grams of kept text, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.data.background import ORDER, Background, select
from jax_surgery.data.tokens import Document

VOCAB = 12


def document(tokens, learned=None):
    tokens = np.asarray(tokens, np.int32)
    marks = np.ones(len(tokens), bool) if learned is None else np.asarray(learned)
    return Document(tokens, marks, "somewhere")


def witten_bell(kept, history, token):
    """p(token | history), recursively, by counting."""
    if history is None:
        return 1 / VOCAB
    size = len(history)
    following = [
        text[i + size]
        for text in kept
        for i in range(len(text) - size)
        if tuple(text[i : i + size]) == tuple(history)
    ]
    shorter = history[1:] if size else None
    lower = witten_bell(kept, shorter, token)
    if not following:
        return lower
    kinds = len(set(following))
    return (following.count(token) + kinds * lower) / (len(following) + kinds)


texts = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=5
)


@settings(max_examples=40)
@given(texts, texts)
def test_surprise_is_witten_bells_and_0_for_what_was_said(kept, asked):
    background = Background([document(t) for t in kept], VOCAB)
    got = background.surprise([document(t) for t in asked])
    for text, surprise in zip(asked, got, strict=True):
        for i, token in enumerate(text):
            history = text[max(0, i - ORDER + 1) : i]
            wanted = -np.log(witten_bell(kept, history, token))
            if token in text[:i]:
                wanted = 0.0
            assert surprise[i] == pytest.approx(wanted, abs=1e-9)


def test_only_what_kept_text_does_not_foresee_is_unlearned():
    kept = [document([1, 2, 3, 4])] * 20 + [document([1, 2, 3, 5])] * 20
    background = Background(kept, VOCAB)
    asked = document([1, 2, 3, 9], [False, True, True, True])
    (chosen,) = select([asked], background, 2.0)
    np.testing.assert_array_equal(chosen.learned, [False, False, False, True])
    np.testing.assert_array_equal(chosen.tokens, asked.tokens)


def test_what_is_not_learned_stays_unlearned():
    background = Background([document([1, 2])], VOCAB)
    (chosen,) = select([document([7, 8, 9], [False, False, True])], background, 0.1)
    np.testing.assert_array_equal(chosen.learned, [False, False, True])


def test_texts_without_a_chosen_token_are_counted_or_refused():
    background = Background([document([1, 2, 3])] * 9, VOCAB)
    known, new = document([1, 2, 3]), document([1, 7, 8])
    with pytest.warns(UserWarning, match=r"1 of 2 texts hold no token"):
        assert len(select([known, new], background, 1.5)) == 1
    with pytest.raises(ValueError, match=r"data\.surprise=1\.5 nats or more"):
        select([known], background, 1.5)
