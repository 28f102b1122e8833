# SPDX-License-Identifier: Apache-2.0
"""Packing: nothing lost, nothing doubled, weights independent of where things lie."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document

CONTEXT = 16
EOS = PAD = 0  # the padding's id is a token like any other


@st.composite
def corpora(draw, max_size=40):
    lengths = draw(st.lists(st.integers(2, CONTEXT), min_size=1, max_size=max_size))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return [
        Document(
            rng.integers(0, 4, length).astype(np.int32),
            rng.random(length) < 0.6,
            f"f:{i}",
        )
        for i, length in enumerate(lengths)
    ]


def by_token(rows, values_RT):
    """Values of the corpus' tokens, in the corpus' order."""
    real = rows.token_index_BT >= 0
    order = np.argsort(rows.token_index_BT[real])
    return values_RT[real][order]


@settings(max_examples=40)
@given(corpora(), st.sampled_from([None, 0, 7]))
def test_every_document_is_there_once_and_whole(documents, seed):
    packer = Packer(documents, CONTEXT, "tokens")
    rows = packer.pack(seed)
    total = sum(len(d.tokens) for d in documents)
    assert packer.num_tokens == rows.real_tokens == total
    assert rows.segment_ids_BT.max(axis=1).sum() == len(documents)
    index = rows.token_index_BT[rows.token_index_BT >= 0]
    assert sorted(index) == list(range(total))
    flat = np.concatenate([d.tokens for d in documents])
    np.testing.assert_array_equal(by_token(rows, rows.tokens_BT), flat)
    starts = np.cumsum([0] + [len(d.tokens) for d in documents])
    segments = set()
    for r in range(len(rows)):
        for segment in range(1, rows.segment_ids_BT[r].max() + 1):
            (at,) = np.nonzero(rows.segment_ids_BT[r] == segment)
            length = len(at)
            np.testing.assert_array_equal(at, at[0] + np.arange(length))
            np.testing.assert_array_equal(rows.positions_BT[r, at], np.arange(length))
            own = rows.token_index_BT[r, at]
            np.testing.assert_array_equal(own, own[0] + np.arange(length))
            segments.add((int(own[0]), length))
    assert segments == {
        (int(start), len(d.tokens)) for start, d in zip(starts, documents, strict=False)
    }


@settings(max_examples=20)
@given(corpora(), st.sampled_from([None, 7]), st.integers(1, 60))
def test_the_first_rows_alone_are_those_of_all(documents, seed, most):
    packer = Packer(documents, CONTEXT, "tokens")
    wanted = packer.pack(seed).select(slice(most))
    for one, other in zip(
        dataclasses.astuple(packer.pack(seed, most)),
        dataclasses.astuple(wanted),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=40)
@given(corpora(), st.integers(0, 5), st.sampled_from(["tokens", "sequences"]))
def test_weights_are_the_documents_own(documents, seed, average):
    """Whatever the order of packing and the padding added."""
    rows = Packer(documents, CONTEXT, average).pack()
    weights = by_token(rows, rows.weights_BT)
    expected = []
    for document in documents:
        targets = document.learned.copy()
        targets[0] = False
        count = max(targets.sum(), 1) if average == "sequences" else 1
        expected.append(targets / count)
    np.testing.assert_allclose(weights, np.concatenate(expected), rtol=1e-6)
    shuffled = Packer(documents, CONTEXT, average).pack(seed)
    padded = Packer(documents, 3 * CONTEXT + 1, average).pack(seed)
    for other in (shuffled, padded):
        np.testing.assert_array_equal(by_token(other, other.weights_BT), weights)
    assert (rows.positions_BT[rows.weights_BT > 0] > 0).all()


@settings(max_examples=30)
@given(corpora())
def test_padding_is_known_by_length_alone(documents):
    rows = Packer(documents, CONTEXT, "tokens").pack(3)
    padded = rows.segment_ids_BT == 0
    np.testing.assert_array_equal(padded, rows.token_index_BT == -1)
    assert not rows.weights_BT[padded].any()
    assert not rows.tokens_BT[padded].any()
    # Padding is the tail of a row, and no row is empty.
    assert (np.diff(padded.astype(int), axis=1) >= 0).all()
    assert not padded.all(axis=1).any()
    # First fit: at most one row of every 64 open ones is under half full.
    half_empty = (~padded).sum(axis=1) < CONTEXT / 2
    assert half_empty.sum() <= 1


def test_shapes_types_and_selection():
    documents = [Document(np.arange(5, dtype=np.int32), np.ones(5, bool), "f:1")] * 20
    rows = Packer(documents, CONTEXT, "tokens").pack()
    types = (np.int32, np.int32, np.int32, np.float32, np.int64)
    arrays = (
        rows.tokens_BT,
        rows.segment_ids_BT,
        rows.positions_BT,
        rows.weights_BT,
        rows.token_index_BT,
    )
    for array, dtype in zip(arrays, types, strict=True):
        assert array.shape == (7, CONTEXT)
        assert array.dtype == dtype
    np.testing.assert_array_equal(
        rows.select(slice(2, 4)).tokens_BT, rows.tokens_BT[2:4]
    )


def test_the_seed_decides_the_order():
    documents = [
        Document(np.full(n, n, np.int32), np.ones(n, bool), f"f:{n}")
        for n in [3, 4, 5, 6, 7] * 8
    ]
    packer = Packer(documents, CONTEXT, "tokens")
    a, b, c = packer.pack(1), packer.pack(1), packer.pack(2)
    np.testing.assert_array_equal(a.token_index_BT, b.token_index_BT)
    assert a.token_index_BT.tolist() != c.token_index_BT.tolist()


def test_what_cannot_be_packed():
    long = Document(np.zeros(17, np.int32), np.ones(17, bool), "f:1")
    with pytest.raises(ValueError, match=r"17 tokens does not fit data.context=16"):
        Packer([long], CONTEXT, "tokens")
    with pytest.raises(ValueError, match="data.average='mean'"):
        Packer([long], 32, "mean")
    with pytest.raises(ValueError, match="no documents"):
        Packer([], 32, "tokens")
