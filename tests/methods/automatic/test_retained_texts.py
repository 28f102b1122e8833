# SPDX-License-Identifier: Apache-2.0
"""Tests of how often retained texts of each kind are read."""

import collections

import numpy as np

from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import retained_texts


def document(kind, size):
    return Document(np.zeros(size, np.int32), np.ones(size, bool), kind)


def counts(documents):
    return collections.Counter(one.origin for one in documents)


def test_small_kinds_are_read_more_often_and_neighbours_most():
    kinds = {
        "retain": [document("retain", 11)] * 12,  # 120 learned tokens
        "neighbours": [document("neighbours", 11)] * 40,
        "text": [document("text", 101)] * 20,  # 2000
        "kept": [document("kept", 2)],
        "unlearn": [document("unlearn", 11)] * 100,
    }
    found = counts(retained_texts.balanced(kinds))  # 3521 of all, of a weight 391
    assert found["text"] == 4
    assert found["neighbours"] == 40 * 4
    assert found["retain"] == 12 * 7
    assert found["kept"] == retained_texts.MOST_COPIES
    assert found["unlearn"] == 100  # the user's own text is never left out
    assert retained_texts.balanced({"retain": []}) == []


def test_second_moments_are_of_as_much_text_of_each_kind_and_most_of_neighbours():
    kinds = {
        "retain": [document("retain", 10)] * 2,
        "neighbours": [document("neighbours", 10)] * 50,
        "text": [document("text", 100)] * 50,
    }

    def tokens(limit):
        found = collections.Counter()
        for one in retained_texts.alike(kinds, limit):
            found[one.origin] += len(one.tokens)
        return found

    # What a kind lacks the others have; of neighbours there are three times as many.
    assert tokens(600) == {"retain": 20, "neighbours": 380, "text": 200}
    assert tokens(0) == {"retain": 20, "neighbours": 500, "text": 5000}
    assert retained_texts.alike({"retain": []}, 100) == []


def test_short_answers_are_retained_without_the_token_that_ends_them():
    short, one, long = document("a", 5), document("b", 2), document("c", 40)
    got = retained_texts.without_ends([short, one, long])
    assert got[0].learned.tolist() == [True] * 4 + [False]
    assert short.learned.all()  # of the run's own records nothing changes
    assert got[1:] == [one, long]
