# SPDX-License-Identifier: Apache-2.0
"""Documents that begin alike read their beginning once, and are whole otherwise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_surgery.data.branches import pack_branches
from jax_surgery.data.tokens import Document

CONTEXT = 32


def document(prompt, answer) -> Document:
    tokens = np.asarray([*prompt, *answer], np.int32)
    return Document(tokens, np.arange(len(tokens)) >= len(prompt), "")


@st.composite
def questions(draw) -> list[Document]:
    """Answers of one to four tokens to questions, and texts of which all is learned."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        prompt = [number] * draw(st.integers(0, 12))
        for _ in range(draw(st.integers(1, 9))):
            answer = [50 + number] * draw(st.integers(1, 4))
            found.append(document(prompt, answer))
    return found


def seen(batch, row: int, place: int) -> list[int]:
    """Tokens that a token sees, itself the last, in the order of their positions."""
    segments, begins = batch.segment_ids_BT[row], np.zeros_like(batch.segment_ids_BT[0])
    if batch.begins_BT is not None:
        begins = batch.begins_BT[row]
    same = segments == segments[place]
    same |= (segments == begins[place]) & (begins[place] > 0)
    places = np.flatnonzero(same[: place + 1])
    positions = batch.positions_BT[row, places]
    np.testing.assert_array_equal(positions, np.arange(len(places)))
    return batch.tokens_BT[row, places].tolist()


@given(questions(), st.booleans())
def test_every_learned_token_is_there_once_and_sees_its_own_document(documents, share):
    batch = pack_branches(documents, CONTEXT, share)
    starts = np.cumsum([0, *(len(d.tokens) for d in documents)])
    found = set()
    for row, place in zip(*np.nonzero(batch.weights_BT), strict=True):
        index = int(batch.token_index_BT[row, place])
        number = int(np.searchsorted(starts, index, "right") - 1)
        own = documents[number].tokens[: index - starts[number] + 1]
        assert seen(batch, row, place) == own.tolist()
        # The token that predicts it stands beside it, in the same segment.
        assert seen(batch, row, place - 1) == own[:-1].tolist()
        assert batch.segment_ids_BT[row, place - 1] == batch.segment_ids_BT[row, place]
        found.add(index)
    wanted = [
        start + i
        for start, d in zip(starts, documents)
        for i in np.flatnonzero(d.learned)
        if i
    ]
    assert found == set(wanted)


def test_what_is_shared_stands_once_a_row():
    prompt = list(range(1, 11))
    documents = [document(prompt, [40 + i, 41 + i]) for i in range(5)]
    batch = pack_branches(documents, CONTEXT)
    # 9 tokens are shared; the tenth predicts the answer, and is each document's own.
    assert batch.real_tokens == 9 + 5 * 3 and len(batch) == 1
    assert pack_branches(documents, CONTEXT, share=False).real_tokens == 60
    # Where a row has no room for all of them the next one begins so too.
    assert pack_branches(documents, 16).real_tokens == 3 * 9 + 5 * 3


def test_rows_are_filled():
    rng = np.random.default_rng(0)
    documents = [
        document([number] * 20, rng.integers(0, 50, rng.integers(5, 60)))
        for number in range(100)
        for _ in range(7 if number % 2 else 1)
    ]
    batch = pack_branches(documents, 512)
    assert batch.real_tokens > 0.93 * batch.tokens_BT.size


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no documents"):
        pack_branches([], CONTEXT)
    with pytest.raises(ValueError, match="33 tokens .* does not fit rows of 32"):
        pack_branches([document([1] * 30, [2] * 3)], CONTEXT)
