# SPDX-License-Identifier: Apache-2.0
"""Adds a low-rank delta to weights in a checkpoint's dtype, and takes it off exactly.

Rounding loses bits, so round(round(W + delta) - delta) equals W for most weights, but
not for all. A correction stores the difference, counted in representable numbers; most
corrections are 0 and compress well. This needs the same delta, to the bit, on every
machine: factors are float32, so float64 holds their products exactly, and the products
are added one by one in a fixed order (the order in a BLAS depends on the machine).
"""

import math
import zlib

import ml_dtypes
import numpy as np

BLOCK = 2**16  # elements that are summed at a time, so that they stay in the cache
STORED = tuple(np.dtype(kind) for kind in ("<i1", "<i2", "<i4", "<i8"))


class Delta:
    """scale * (a b)^T of an edit's factors, [outputs, inputs] as in checkpoints."""

    def __init__(self, a: np.ndarray, b: np.ndarray, scale: float):
        """
        Args:
          a, b: [inputs, rank] and [rank, outputs], float32.
          scale: multiplies their product.
        """
        self._a = np.ascontiguousarray(a.T, np.float64)
        self._b = b.astype(np.float64)
        self._scale = scale

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [stop - start, inputs] in float64, the same bits on every machine."""
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


def _bits(weights: np.ndarray) -> np.ndarray:
    return weights.view(f"<i{weights.dtype.itemsize}")


def _mirrored(integers: np.ndarray) -> np.ndarray:
    """Negative integers in the reverse order; its own inverse."""
    sign = integers >> (8 * integers.itemsize - 1)
    return integers ^ (sign & np.iinfo(integers.dtype).max)


def ordered(weights: np.ndarray) -> np.ndarray:
    """Maps floats to integers in the same order: neighbours differ by one.

    Every bit pattern has its own integer, also NaNs and -0 (just below 0).
    """
    return _mirrored(_bits(weights))


def unordered(integers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `ordered`."""
    return _mirrored(integers).view(dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == ml_dtypes.bfloat16:
        # Versions of ml_dtypes differ in how they cast float64 to bfloat16.
        values = values.astype(np.float32)
    return values.astype(dtype)


def moved(weights: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """round(weights + delta) in the dtype of the weights.

    Infinities, NaNs and weights with delta 0 keep all their bits.

    Args:
      weights: float64, float32, bfloat16 or float16.
      delta: finite, float64, the same shape.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wide = weights.astype(np.float64)
        new = _rounded(wide + delta, weights.dtype)
    stay = (delta == 0) | ~np.isfinite(wide)
    return np.where(stay, _bits(weights), _bits(new)).view(weights.dtype)


def _noise(name: str, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1) of the places of a tensor's rows, the same on every machine.

    Integers alone are computed (the mixing steps of MurmurHash3), which have no rounding.
    """
    width = math.prod(shape[1:])
    place = np.arange(start * width, (start + shape[0]) * width, dtype=np.uint64)
    mixed = place ^ np.uint64(zlib.crc32(name.encode()) << 32)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return ((mixed >> np.uint64(40)) * 2.0**-24).reshape(shape)


def added(
    weights: np.ndarray, delta: np.ndarray, name: str, start: int = 0
) -> np.ndarray:
    """weights + delta in the dtype of the weights, of which no small change is lost.

    float32 is rounded to the nearest, as by `moved`. With 16 bits that would undo every
    change of less than half the spacing (0.2 to 0.4 % of a weight in bfloat16), so the sum
    becomes one of its two neighbours, as often as it lies near it: correct on average.

    Args:
      weights, delta: as of `moved`.
      name: of the tensor.
      start: the first of these rows in the tensor.
    """
    near = moved(weights, delta)
    if weights.dtype.itemsize > 2:
        return near
    with np.errstate(over="ignore", invalid="ignore"):
        exact = weights.astype(np.float64) + delta
        off = exact - near.astype(np.float64)
        side = np.where(np.isfinite(off), np.sign(off), 0).astype(_bits(near).dtype)
        other = unordered(ordered(near) + side, near.dtype)
        # From 0 the next number downwards is -0, as far as it: there nothing moves.
        gap = np.abs(other.astype(np.float64) - near.astype(np.float64))
        share = np.abs(off) / np.where(gap > 0, gap, np.inf)
        there = np.isfinite(near) & np.isfinite(other)
    moves = there & (delta != 0) & (_noise(name, start, near.shape) < share)
    return np.where(moves, _bits(other), _bits(near)).view(near.dtype)


def overflows(weights: np.ndarray, edited: np.ndarray) -> bool:
    """Whether any finite weight became infinite."""
    with np.errstate(invalid="ignore"):
        return bool((np.isfinite(weights) & ~np.isfinite(edited)).any())


def _compressed(raw: bytes) -> bytes:
    # Only runs of zeros compress here, and this strategy looks for nothing else: it
    # takes a quarter of the time of the others.
    stream = zlib.compressobj(strategy=zlib.Z_RLE)
    return stream.compress(raw) + stream.flush()


def correction(
    weights: np.ndarray, edited: np.ndarray, delta: np.ndarray
) -> tuple[int, bytes]:
    """The correction that `restored` needs to compute the weights again.

    Returns:
      (bytes of one integer before compression, the compressed integers). The integers
      have the smallest type of `STORED` that can hold all of them.
    """
    back = moved(edited, -delta)
    steps = ordered(weights) - ordered(back)  # modulo 2^bits, as `restored` adds them
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
      edited: the result of `moved`.
      delta: the delta that was added.
      itemsize, stored: the result of `correction`.

    Raises:
      ValueError: `stored` is damaged, or belongs to other weights.
    """
    try:
        raw = zlib.decompress(stored)
    except zlib.error as error:
        raise ValueError(
            f"the rounding correction cannot be decompressed ({error}): the rollback's "
            "file is damaged. Copy it again."
        ) from error
    if len(raw) != itemsize * edited.size:
        raise ValueError(
            f"the rounding correction has {len(raw)} bytes; {edited.size} weights need "
            f"{itemsize} bytes each. Use the rollback's file of this edit."
        )
    steps = np.frombuffer(raw, f"<i{itemsize}").reshape(edited.shape)
    back = ordered(moved(edited, -delta))
    return unordered(back + steps.astype(back.dtype), edited.dtype)
