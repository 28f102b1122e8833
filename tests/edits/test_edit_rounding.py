# SPDX-License-Identifier: Apache-2.0
"""Weights plus a delta and back: every bit, whatever the bits are."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_surgery.edits import rounding as edit_rounding

DTYPES = [np.dtype(d) for d in (np.float32, ml_dtypes.bfloat16, np.float16)]


def patterns(dtype, count):
    """Weights of any bits at all: NaNs, infinities, subnormals, both zeros."""
    kind = np.dtype(f"u{dtype.itemsize}")
    return arrays.arrays(kind, count).map(lambda bits: bits.view(dtype))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_integers_are_in_the_order_of_all_numbers(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    integers = edit_rounding.ordered(every)
    assert len(set(integers.tolist())) == 2**16
    back = edit_rounding.unordered(integers, dtype)
    assert back.tobytes() == every.tobytes()
    with np.errstate(invalid="ignore"):  # signalling NaNs
        line = back[np.argsort(integers)].astype(np.float64)
    line = line[~np.isnan(line)]
    assert (np.diff(line[np.isfinite(line)]) >= 0).all()
    assert line[0] == -np.inf
    assert line[-1] == np.inf


@settings(deadline=None)
@given(patterns(np.dtype(np.float32), 8))
def test_integers_of_float32_are_in_order_and_go_back(weights):
    integers = edit_rounding.ordered(weights)
    back = edit_rounding.unordered(integers, weights.dtype)
    assert back.tobytes() == weights.tobytes()
    finite = np.isfinite(weights)
    with np.errstate(invalid="ignore"):
        wanted = np.sort(weights[finite].astype(np.float64))
    line = weights[finite][np.argsort(integers[finite])].astype(np.float64)
    np.testing.assert_array_equal(line, wanted)
    up = np.nextafter(np.float32(weights[finite]), np.float32(np.inf))
    steps = edit_rounding.ordered(up) - integers[finite]
    assert ((steps == 1) | (weights[finite] == 0)).all()


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_every_bit_comes_back(data, dtype):
    weights = data.draw(patterns(dtype, 6))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
    delta = data.draw(arrays.arrays(np.float64, 6, elements=finite))
    edited = edit_rounding.moved(weights, delta)
    kept = edit_rounding.correction(weights, edited, delta)
    back = edit_rounding.restored(edited, delta, *kept)
    assert back.tobytes() == weights.tobytes()
    with np.errstate(invalid="ignore"):
        wide, new = weights.astype(np.float32), edited.astype(np.float32)
    lost = np.isfinite(wide) & ~np.isfinite(new)
    assert edit_rounding.overflows(weights, edited) == lost.any()
    still = ~np.isfinite(wide) | (delta == 0)
    assert edited[still].tobytes() == weights[still].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_delta_is_added_and_rounded_once(dtype):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.02, 1000).astype(dtype)
    delta = rng.normal(0, 0.002, 1000)
    edited = edit_rounding.moved(weights, delta)
    wanted = (weights.astype(np.float64) + delta).astype(np.float32).astype(dtype)
    assert edited.tobytes() == wanted.tobytes()
    itemsize, stored = edit_rounding.correction(weights, edited, delta)
    assert len(stored) < 0.25 * weights.nbytes
    small = np.full_like(delta, 1e-12)
    same = edit_rounding.moved(weights, small)
    assert edit_rounding.correction(weights, same, small)[0] == 1 <= itemsize


def test_a_delta_is_the_sum_of_its_terms_whatever_rows_are_asked(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(7, 5)).astype(np.float32)
    b = rng.normal(size=(5, 11)).astype(np.float32)
    total = np.zeros((11, 7))
    for left, right in zip(b.astype(float), a.T.astype(float), strict=True):
        total = total + np.outer(left, right)
    delta = edit_rounding.Delta(a, b, 0.3)
    assert delta.rows(0, 11).tobytes() == (total * 0.3).tobytes()
    monkeypatch.setattr(edit_rounding, "BLOCK", 15)
    assert delta.rows(0, 11).tobytes() == (total * 0.3).tobytes()
    assert delta.rows(3, 8).tobytes() == (total * 0.3)[3:8].tobytes()


def test_corrections_that_are_broken_or_others_are_refused():
    weights = np.ones(4, np.float16)
    with pytest.raises(ValueError, match="cannot be read"):
        edit_rounding.restored(weights, np.zeros(4), 1, b"no")
    itemsize, stored = edit_rounding.correction(weights, weights, np.zeros(4))
    with pytest.raises(ValueError, match="4 bytes, and 1 for each of 3 weights"):
        edit_rounding.restored(weights[:3], np.zeros(3), itemsize, stored)
