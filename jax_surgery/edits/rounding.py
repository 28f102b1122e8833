# SPDX-License-Identifier: Apache-2.0
"""Weights plus a low-rank delta, rounded to a checkpoint's dtype, and the way back.

Rounding loses bits, so W + delta - delta is not W. It is so nearly everywhere, and the
rest is kept: the way back rounds W' - delta and adds the difference to W, counted in
representable numbers, which is 0 for most weights. This needs the same delta on every
machine: factors are float32, so that float64 holds their products exactly, and these
are added one by one in a fixed order (a BLAS orders them as it likes).
"""

import zlib

import ml_dtypes
import numpy as np

BLOCK = 2**16  # elements of a sum that is made at a time: it stays in the cache
STORED = tuple(np.dtype(kind) for kind in ("<i1", "<i2", "<i4"))


class Delta:
    """scale * (a b) of an edit's factors, as checkpoints keep it: [outputs, inputs]."""

    def __init__(self, a: np.ndarray, b: np.ndarray, scale: float):
        """
        Args:
          a, b: [inputs, rank] and [rank, outputs], float32.
          scale: of their product.
        """
        self._a = np.ascontiguousarray(a.T, np.float64)
        self._b = b.astype(np.float64)
        self._scale = scale

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of it, [stop - start, inputs], float64; equal bits on every machine."""
        inputs = self._a.shape[1]
        total = np.zeros((stop - start, inputs))
        step = max(1, BLOCK // inputs)
        for begin in range(0, len(total), step):
            part = total[begin : begin + step]
            term = np.empty_like(part)
            columns = self._b[:, start + begin : start + begin + len(part)]
            for left, right in zip(columns, self._a, strict=True):
                np.multiply(left[:, None], right, out=term)
                np.add(part, term, out=part)
            np.multiply(part, self._scale, out=part)
        return total


def _unsigned(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"<u{dtype.itemsize}")


def _top(bits: np.ndarray) -> np.unsignedinteger:
    return bits.dtype.type(1 << (8 * bits.itemsize - 1))


def _all_where_top(bits: np.ndarray) -> np.ndarray:
    """Every bit where the top one is set, none elsewhere."""
    signed = bits.view(f"<i{bits.itemsize}")
    return (signed >> (8 * bits.itemsize - 1)).view(bits.dtype)


def ordered(weights: np.ndarray) -> np.ndarray:
    """Floats as unsigned integers in the floats' order: neighbours differ by one.

    Every pattern of bits has its own integer, NaNs and -0 (just below 0) too.
    """
    bits = weights.view(_unsigned(weights.dtype))
    return bits ^ (_all_where_top(bits) | _top(bits))  # of negative ones, every bit


def unordered(integers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `ordered`."""
    return (integers ^ (~_all_where_top(integers) | _top(integers))).view(dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == ml_dtypes.bfloat16:
        # What a cast from float64 does is not the same in all versions of ml_dtypes.
        values = values.astype(np.float32)
    return values.astype(dtype)


def moved(weights: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """round(weights + delta), in the dtype of the weights.

    Weights whose delta is 0, infinities and NaNs keep all their bits.

    Args:
      weights: float32, bfloat16 or float16.
      delta: float64, of the same shape, finite.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wide = weights.astype(np.float64)
        new = _rounded(wide + delta, weights.dtype)
    kind = _unsigned(weights.dtype)
    stay = (delta == 0) | ~np.isfinite(wide)
    return np.where(stay, weights.view(kind), new.view(kind)).view(weights.dtype)


def overflows(weights: np.ndarray, edited: np.ndarray) -> bool:
    """Whether finite weights became infinite."""
    with np.errstate(invalid="ignore"):
        return bool((np.isfinite(weights) & ~np.isfinite(edited)).any())


def _compressed(raw: bytes) -> bytes:
    # Runs of zeros are all there is to find: a quarter of the time of other strategies.
    stream = zlib.compressobj(strategy=zlib.Z_RLE)
    return stream.compress(raw) + stream.flush()


def correction(
    weights: np.ndarray, edited: np.ndarray, delta: np.ndarray
) -> tuple[int, bytes]:
    """What `restored` needs to have the weights again.

    Returns:
      (bytes of one integer before compression, the integers, compressed): of the
      smallest of `STORED` that holds all of them.
    """
    back = moved(edited, -delta)
    # Modulo 2^bits, where every difference has its place.
    steps = (ordered(weights) - ordered(back)).view(f"<i{weights.dtype.itemsize}")
    low, high = (int(steps.min()), int(steps.max())) if steps.size else (0, 0)
    for kind in STORED:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind.itemsize, _compressed(steps.astype(kind).tobytes())
    raise AssertionError(f"{weights.dtype} has more than {STORED[-1].itemsize} bytes")


def restored(
    edited: np.ndarray, delta: np.ndarray, itemsize: int, stored: bytes
) -> np.ndarray:
    """The weights before the edit.

    Args:
      edited: as `moved` gave them.
      delta: that was added.
      itemsize, stored: as `correction` gave them.

    Raises:
      ValueError: `stored` is broken, or of other weights.
    """
    try:
        raw = zlib.decompress(stored)
    except zlib.error as error:
        raise ValueError(f"the correction cannot be read ({error}).") from error
    if len(raw) != itemsize * edited.size:
        raise ValueError(
            f"the correction has {len(raw)} bytes, and {itemsize} for each of "
            f"{edited.size} weights are wanted."
        )
    steps = np.frombuffer(raw, f"<i{itemsize}").reshape(edited.shape)
    back = ordered(moved(edited, -delta))
    wide = steps.astype(f"<i{edited.dtype.itemsize}").view(back.dtype)
    return unordered(back + wide, edited.dtype)
