# SPDX-License-Identifier: Apache-2.0
"""Streams: fixed shares, exact epochs, and going on bit for bit."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import ROLES, BatchStream, one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.parallel import progress

CONTEXT = 12
ROWS = {"unlearn": 2, "update": 1, "retain": 3}


def packer(role, count, seed=0):
    """Documents whose tokens say which role and document they are of."""
    rng = np.random.default_rng(seed)
    documents = []
    for i, length in enumerate(rng.integers(2, CONTEXT, count)):
        token = 1000 * (ROLES.index(role) + 1) + i
        documents.append(
            Document(np.full(length, token, np.int32), np.ones(length, bool), f"f:{i}")
        )
    return Packer(documents, CONTEXT, "sequences")


def packers(counts=(5, 17, 40)):
    return {role: packer(role, n) for role, n in zip(ROLES, counts, strict=True)}


def documents_in(batch):
    """The first tokens of the documents of a batch."""
    first = (batch.positions_BT == 0) & (batch.segment_ids_BT > 0)
    return batch.tokens_BT[first].tolist()


def assert_same(a, b):
    for field in dataclasses.fields(a):
        one, other = (getattr(batch, field.name) for batch in (a, b))
        np.testing.assert_array_equal(one, other)


@settings(max_examples=20)
@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(0, 3)] * 3).filter(any),
    st.integers(0, 3),
)
def test_shares_are_fixed_and_roles_lie_in_order(counts, shares, seed):
    rows = dict(zip(ROLES, shares, strict=True))
    stream = BatchStream(packers(counts), rows, seed)
    of_row = np.repeat([1000, 2000, 3000], shares)
    for _ in range(4):
        batch = next(stream)
        assert batch.tokens_BT.shape == (sum(shares), CONTEXT)
        real = batch.segment_ids_BT > 0
        assert real.any(axis=1).all()
        expected = np.broadcast_to(of_row[:, None], real.shape)
        np.testing.assert_array_equal(
            batch.tokens_BT[real] // 1000 * 1000, expected[real]
        )
    assert set(stream.epochs) == {role for role in ROLES if rows[role]}


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 12), st.integers(0, 5))
def test_each_document_is_seen_exactly_once_an_epoch(count, rows, batches, seed):
    stream = BatchStream(
        {"update": packer("update", count)}, {"update": rows, "retain": 0}, seed
    )
    seen = []
    for _ in range(batches):
        seen += documents_in(next(stream))
        # In order of the rows, every whole pass holds every document once ...
        for start in range(0, len(seen) - count + 1, count):
            assert len(set(seen[start : start + count])) == count
    # ... and what is counted is what was given out.
    assert stream.epochs == {"update": len(seen) / count}
    counted = collections.Counter(seen).values()
    assert max(counted) - min([*counted, 0][: len(set(seen)) == count or None]) <= 1


def test_epochs_come_in_different_orders():
    count = 30
    stream = BatchStream({"update": packer("update", count)}, {"update": 1}, 0)
    seen = []
    while stream.epochs["update"] < 3:
        seen += documents_in(next(stream))
    orders = {tuple(seen[i * count : (i + 1) * count]) for i in range(3)}
    assert len(orders) == 3


@settings(max_examples=6)
@given(st.integers(0, 12), st.integers(0, 2))
def test_a_resumed_stream_goes_on_bit_for_bit(before, seed):
    stream = BatchStream(packers(), ROWS, seed)
    for _ in range(before):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    after = [next(stream) for _ in range(8)]
    resumed = BatchStream(packers(), ROWS, seed)
    next(resumed)  # where it stood before does not matter
    resumed.set_state(state)
    for batch in after:
        assert_same(batch, next(resumed))
    assert resumed.epochs == stream.epochs
    # Numbers come back from a checkpoint as arrays, too.
    resumed.set_state({r: _as_arrays(s) for r, s in state.items()})
    assert_same(after[0], next(resumed))


def _as_arrays(state):
    if isinstance(state, dict):
        return {key: _as_arrays(value) for key, value in state.items()}
    return np.asarray(state)


def test_a_state_does_not_change_once_taken():
    stream = BatchStream(packers(), ROWS, 0)
    next(stream)
    state = stream.get_state()
    text = json.dumps(state)
    for _ in range(20):
        next(stream)
    assert json.dumps(state) == text


def test_the_state_of_another_run_is_refused():
    state = BatchStream(packers(), ROWS, 0).get_state()
    with pytest.raises(ValueError, match="seed="):
        BatchStream(packers(), ROWS, 1).set_state(state)
    with pytest.raises(ValueError, match="documents=5, this one has 6"):
        BatchStream(packers((6, 17, 40)), ROWS, 0).set_state(state)
    with pytest.raises(ValueError, match="roles"):
        BatchStream(packers(), {"update": 1}, 0).set_state(state)


def test_the_same_seed_gives_the_same_batches_and_another_others():
    a, b, c = (BatchStream(packers(), ROWS, seed) for seed in (0, 0, 1))
    batch = next(a)
    assert_same(batch, next(b))
    assert batch.tokens_BT.tolist() != next(c).tokens_BT.tolist()


def test_rows_without_texts_and_texts_without_rows():
    with pytest.raises(ValueError, match="all 0"):
        BatchStream(packers(), dict.fromkeys(ROLES, 0), 0)
    with pytest.raises(ValueError, match="rows of unlearn are asked for"):
        BatchStream({"retain": packer("retain", 3)}, {"unlearn": 1, "retain": 1}, 0)
    with pytest.raises(ValueError, match="unknown role 'forget'"):
        BatchStream(packers(), {"forget": 1}, 0)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 7))
def test_one_pass_gives_every_token_once_in_batches_of_one_shape(count, batch_rows):
    corpus = packer("retain", count)
    batches = list(one_pass(corpus.pack(), batch_rows))
    index = np.concatenate([b.token_index_BT.ravel() for b in batches])
    assert sorted(index[index >= 0]) == list(range(corpus.num_tokens))
    left = len(corpus.pack())
    for batch in batches:
        assert batch.tokens_BT.shape == (batch_rows, CONTEXT)
        real = min(left, batch_rows)
        left -= real
        held = (batch.segment_ids_BT > 0).any(axis=1)
        assert held[:real].all()
        assert not held[real:].any()
        assert not batch.weights_BT[real:].any()


def test_documents_come_in_the_same_order_on_any_number_of_devices():
    """And after a change of their number, as where a smaller slice goes on."""

    def stream(shards):
        # Rows that are filled up so that every device has as many.
        full = [-(-ROWS[role] // shards) * shards for role in ROLES]
        layout = RoleRows(*full, shards=shards)
        return BatchStream(packers(), ROWS, 7, layout=layout)

    def documents(stream, batches):
        # Roles lie in another order on several devices; within one the order counts.
        found = [sorted(documents_in(next(stream))) for _ in range(batches)]
        return [tuple(batch) for batch in found]

    one = stream(1)
    wanted = documents(one, 12)
    for shards in (2, 8):
        assert documents(stream(shards), 12) == wanted
        first, then = stream(shards), stream(1)
        assert documents(first, 5) == wanted[:5]
        then.set_state(json.loads(json.dumps(first.get_state())))
        assert documents(then, 7) == wanted[5:]


def test_a_pass_that_takes_a_while_shows_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 0)
    rows = packer("retain", 20).pack()
    assert len(list(one_pass(rows, 2, "second moments"))) == -(-len(rows) // 2)
    said = capsys.readouterr().err
    assert re.match(r"second moments: batch (\d+) of \1, 0 s in all", said)
    list(one_pass(rows, 2))
    assert not capsys.readouterr().err
