# SPDX-License-Identifier: Apache-2.0
"""Adding a delta to weights and taking it off again restores every bit pattern."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_surgery.edits import rounding

DTYPES = [np.dtype(d) for d in (np.float32, ml_dtypes.bfloat16, np.float16)]


def patterns(dtype, count):
    """Weights with arbitrary bits: also NaNs, infinities, subnormals and both zeros."""
    kind = np.dtype(f"u{dtype.itemsize}")
    return arrays.arrays(kind, count).map(lambda bits: bits.view(dtype))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_ordered_integers_follow_the_order_of_floats(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    integers = rounding.ordered(every)
    assert len(set(integers.tolist())) == 2**16
    back = rounding.unordered(integers, dtype)
    assert back.tobytes() == every.tobytes()
    with np.errstate(invalid="ignore"):  # signalling NaNs
        line = back[np.argsort(integers)].astype(np.float64)
    line = line[~np.isnan(line)]
    assert (np.diff(line[np.isfinite(line)]) >= 0).all()
    assert line[0] == -np.inf
    assert line[-1] == np.inf


@given(patterns(np.dtype(np.float32), 8))
def test_ordered_integers_of_float32_can_be_inverted(weights):
    integers = rounding.ordered(weights)
    back = rounding.unordered(integers, weights.dtype)
    assert back.tobytes() == weights.tobytes()
    finite = np.isfinite(weights)
    with np.errstate(invalid="ignore"):
        wanted = np.sort(weights[finite].astype(np.float64))
    line = weights[finite][np.argsort(integers[finite])].astype(np.float64)
    np.testing.assert_array_equal(line, wanted)
    up = np.nextafter(np.float32(weights[finite]), np.float32(np.inf))
    steps = rounding.ordered(up) - integers[finite]
    assert ((steps == 1) | (weights[finite] == 0)).all()


@given(data=st.data(), dtype=st.sampled_from(DTYPES), how=st.sampled_from("ma"))
def test_every_bit_is_restored(data, dtype, how):
    weights = data.draw(patterns(dtype, 6))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
    delta = data.draw(arrays.arrays(np.float64, 6, elements=finite))
    edited = rounding.moved(weights, delta)
    if how == "a":
        edited = rounding.added(weights, delta, "name", 3)
    kept = rounding.correction(weights, edited, delta)
    back = rounding.restored(edited, delta, *kept)
    assert back.tobytes() == weights.tobytes()
    with np.errstate(invalid="ignore"):
        wide, new = weights.astype(np.float32), edited.astype(np.float32)
    lost = np.isfinite(wide) & ~np.isfinite(new)
    assert rounding.overflows(weights, edited) == lost.any()
    still = ~np.isfinite(wide) | (delta == 0)
    assert edited[still].tobytes() == weights[still].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_delta_is_added_and_rounded_once(dtype):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, 1000).astype(dtype)
    delta = rng.normal(0, 0.002, 1000)
    edited = rounding.moved(weights, delta)
    wanted = (weights.astype(np.float64) + delta).astype(np.float32).astype(dtype)
    assert edited.tobytes() == wanted.tobytes()
    itemsize, stored = rounding.correction(weights, edited, delta)
    assert len(stored) < 0.25 * weights.nbytes
    small = np.full_like(delta, 1e-12)
    same = rounding.moved(weights, small)
    assert rounding.correction(weights, same, small)[0] == 1 <= itemsize


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2.0**-13, 2.0**-10, 2.0**-6])
def test_no_small_change_is_lost(dtype, size):
    """To the nearest, a change of less than half the spacing would be undone."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (64, 500)).astype(dtype)
    wide = weights.astype(np.float64)
    delta = np.abs(wide) * size * rng.choice([1.0, -0.3], wide.shape)
    edited = rounding.added(weights, delta, "name")
    there = (edited.astype(np.float64) - wide).sum() / delta.sum()
    # Of the smallest, few weights move, each by a whole spacing.
    assert there == pytest.approx(1.0, abs=0.3 if size < 2.0**-12 else 0.1)
    near = rounding.moved(weights, delta)
    if dtype == np.float32:
        assert edited.tobytes() == near.tobytes()
    if dtype == ml_dtypes.bfloat16 and size <= 2.0**-10:
        assert near.tobytes() == weights.tobytes()  # all of it would be lost
    # One of the two neighbours, the same however the rows are cut, and others in another
    # tensor.
    off = rounding.ordered(edited).astype(int) - rounding.ordered(near)
    assert np.abs(off).max() <= 1
    parts = [
        rounding.added(weights[i : i + 16], delta[i : i + 16], "name", i)
        for i in range(0, 64, 16)
    ]
    assert np.concatenate(parts).tobytes() == edited.tobytes()
    if dtype != np.float32:
        other = rounding.added(weights, delta, "other")
        assert other.tobytes() != edited.tobytes()


def test_a_delta_does_not_depend_on_how_its_rows_are_cut(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(7, 5)).astype(np.float32)
    b = rng.normal(size=(5, 11)).astype(np.float32)
    total = np.zeros((11, 7))
    for left, right in zip(b.astype(float), a.T.astype(float), strict=True):
        total = total + np.outer(left, right)
    delta = rounding.Delta(a, b, 0.3)
    assert delta.rows(0, 11).tobytes() == (total * 0.3).tobytes()
    monkeypatch.setattr(rounding, "BLOCK", 15)
    assert delta.rows(0, 11).tobytes() == (total * 0.3).tobytes()
    assert delta.rows(3, 8).tobytes() == (total * 0.3)[3:8].tobytes()


def test_damaged_or_foreign_corrections_are_refused():
    weights = np.ones(4, np.float16)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        rounding.restored(weights, np.zeros(4), 1, b"no")
    itemsize, stored = rounding.correction(weights, weights, np.zeros(4))
    with pytest.raises(ValueError, match="has 4 bytes; 3 weights need 1 bytes each"):
        rounding.restored(weights[:3], np.zeros(3), itemsize, stored)
