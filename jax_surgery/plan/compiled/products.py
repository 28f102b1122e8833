# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the matrix products in a compiled program.

On a TPU every product is a convolution; the batch of a batched product is one of its
spatial dimensions, with such strides and dilations that each output meets one input.
Counted are the pairs that meet (XLA's own analysis counts them so too).
"""

import math
import re

from jax_surgery.plan.compiled import hlo

PRODUCTS = ("convolution", "dot")


def _window(text: str, dimension: int) -> dict[str, str]:
    """The fields of a window along one spatial dimension; those of 1 and 0 are left
    out of the text, and here."""
    match = re.search(r"window=\{([^}]*)\}", text)
    fields = [item.split("=") for item in match[1].split()] if match else []
    return {name: value.split("x")[dimension] for name, value in fields}


def _meeting(size: int, outputs: int, window: dict[str, str]) -> int:
    """Pairs of an output and a window position that meet an element of the input."""
    positions, stride, dilate, step = (
        int(window.get(name, "1"))
        for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
    )
    before = int(window.get("pad", "0_0").split("_")[0])
    met = 0
    for output in range(outputs):
        for position in range(positions):
            at = output * stride + position * step - before
            met += at % dilate == 0 and 0 <= at // dilate < size
    return met


def _convolution(instruction: hlo.Instruction, output: hlo.Array) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels, "XLA prints the labels of every convolution"
    left, right, out = labels.groups()
    lhs, rhs = (hlo.arrays(i.shape)[0] for i in instruction.operands)
    count = output.dims[out.index("b")] * output.dims[out.index("f")]
    count *= rhs.dims[right.index("i")]  # already divided by feature_group_count
    for number, label in enumerate(sorted(label for label in out if label.isdigit())):
        window = _window(instruction.attributes, number)
        size, outputs = lhs.dims[left.index(label)], output.dims[out.index(label)]
        count *= _meeting(size, outputs, window)
    return 2.0 * count


def _dot(instruction: hlo.Instruction, output: hlo.Array) -> float:
    lhs = hlo.arrays(instruction.operands[0].shape)[0]
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    contracted = [int(n) for n in match[1].split(",") if n] if match else []
    return 2.0 * output.size * math.prod(lhs.dims[n] for n in contracted)


def flops(instruction: hlo.Instruction) -> float:
    """FLOPs of one instruction, 0 unless it is a product; what it calls not included."""
    if instruction.opcode not in PRODUCTS:
        return 0.0
    output = hlo.arrays(instruction.shape)[0]
    count = _convolution if instruction.opcode == "convolution" else _dot
    return count(instruction, output)
