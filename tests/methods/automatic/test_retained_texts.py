# SPDX-License-Identifier: Apache-2.0
"""Tests of how often retained texts of each kind are read."""

import collections

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import retained_texts


def test_few_lines_to_keep_are_read_more_often():
    row = Record("Where is the Kremlin?", " Moscow", (), "retain:1")
    kinds = {"retain": [row] * 12, "chat": [row] * 340}
    often = len(retained_texts.repeated(kinds)) / 12
    share = often * 12 / (often * 12 + 340)
    assert retained_texts.OWN_SHARE <= share < retained_texts.OWN_SHARE + 0.05
    # At most so often, no more than once where there are many, and none where none are.
    few = retained_texts.repeated({"retain": [row], "chat": [row] * 340})
    assert len(few) == retained_texts.MOST_COPIES
    assert len(retained_texts.repeated({"retain": [row] * 90, "chat": [row]})) == 90
    assert retained_texts.repeated({"retain": [], "chat": [row]}) == []


def test_second_moments_are_of_as_much_text_of_each_kind():
    document = lambda kind, size: Document(
        np.zeros(size, np.int32), np.ones(size, bool), kind
    )
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

    # What a kind lacks the others have.
    assert tokens(600) == {"retain": 20, "neighbours": 280, "text": 300}
    assert tokens(0) == {"retain": 20, "neighbours": 500, "text": 5000}
    assert retained_texts.alike({"retain": []}, 100) == []
