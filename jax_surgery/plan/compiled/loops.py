# SPDX-License-Identifier: Apache-2.0
"""How often a compiled loop runs, read from its counter.

A scan becomes a `while` over a tuple, one element of which counts: it starts at a
constant, each turn adds a constant, and the condition compares it with a constant. The
constants may be elements of the tuple themselves (of an outer loop's as well). Of a loop
whose turns depend on data the source may state the most there can be
(`parallel.scopes.at_most`).
"""

import math
import re

from jax_surgery.plan.compiled.hlo import Computation, Instruction, Module

# Elements of a loop's tuple that are known constants, by index.
Known = dict[int, int]
# An integer as element + offset; without element (None) the offset is the value.
Linear = tuple[int | None, int]

_SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done")
_SIGN = {"LT": 1, "LE": 1, "GT": -1, "GE": -1}
_MIRRORED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}


def _linear(
    module: Module,
    inside: Computation,
    name: str,
    known: Known,
    arguments: tuple[Linear | None, ...] = (),
) -> Linear | None:
    """An instruction's result in terms of the computation's only parameter, a tuple.

    Args:
      arguments: instead, what a fusion's parameters are.

    Returns:
      None where it is anything else than an element plus a constant.
    """
    instruction = inside.instructions[name]
    operands = instruction.operands

    def of(operand: str) -> Linear | None:
        return _linear(module, inside, operand, known, arguments)

    match instruction.opcode:
        case "constant":
            whole = re.fullmatch(r"-?\d+", instruction.argument)
            return (None, int(whole[0])) if whole else None
        case "parameter":
            number = int(instruction.argument)
            return arguments[number] if number < len(arguments) else None
        case "get-tuple-element":
            index = int(instruction.attribute("index"))
            source = inside.instructions[operands[0]]
            if source.opcode == "tuple":
                return of(source.operands[index])
            if source.opcode != "parameter":
                return None
            return (None, known[index]) if index in known else (index, 0)
        case "add" | "subtract":
            left, right = map(of, operands)
            sign = 1 if instruction.opcode == "add" else -1
            if left is None or right is None or (right[0] is not None and sign < 0):
                return None
            if left[0] is not None and right[0] is not None:
                return None
            element = right[0] if left[0] is None else left[0]
            return element, left[1] + sign * right[1]
        case "fusion":
            called = module.computations[instruction.calls[0]]
            inner = tuple(map(of, operands))
            return _linear(module, called, called.root.name, {}, inner)
        case opcode if opcode in _SAME:
            return of(operands[0])
    return None


def _start(
    module: Module, inside: Computation, loop: Instruction, index: int, known: Known
) -> int | None:
    """What an element of a loop's tuple is before its first turn."""
    source = inside.instructions[loop.operands[0]]
    if source.opcode == "parameter":  # the computation's tuple is passed on as it is
        return known.get(index)
    if source.opcode != "tuple":
        return None
    value = _linear(module, inside, source.operands[index], known)
    return value[1] if value and value[0] is None else None


def _step(module: Module, body: Computation, index: int, known: Known) -> int | None:
    """What a turn adds to an element of the loop's tuple."""
    if body.root.opcode != "tuple":
        return None
    value = _linear(module, body, body.root.operands[index], known)
    return value[1] if value and value[0] == index else None


def constants(
    module: Module, inside: Computation, loop: Instruction, known: Known
) -> Known:
    """The elements of a loop's tuple that are the same constant in every turn."""
    body = module.computations[loop.attribute("body")]
    found = {}
    for index in range(len(body.root.operands)):
        if _step(module, body, index, {}) == 0:
            value = _start(module, inside, loop, index, known)
            if value is not None:
                found[index] = value
    return found


def _comparison(
    module: Module, condition: Computation, known: Known
) -> tuple[int, int, str, int] | None:
    """(element, offset, direction, bound): go on while element + offset < bound."""
    root, inside, arguments = condition.root, condition, ()
    if root.opcode == "fusion":
        inside = module.computations[root.calls[0]]
        arguments = tuple(
            _linear(module, condition, name, known) for name in root.operands
        )
        root = inside.root
    if root.opcode != "compare":
        return None
    left, right = (
        _linear(module, inside, name, known, arguments) for name in root.operands
    )
    direction = root.attribute("direction")
    if left is None or right is None:
        return None
    if left[0] is None:
        left, right, direction = right, left, _MIRRORED.get(direction, direction)
    if left[0] is None or right[0] is not None:
        return None
    return left[0], left[1], direction, right[1]


def trips(
    module: Module, inside: Computation, loop: Instruction, known: Known
) -> int | None:
    """How many turns a loop makes, or at most makes where its source says so.

    Args:
      module: the program.
      inside: the computation that the loop is an instruction of.
      loop: a "while".
      known: the constants in `inside`'s own parameter, where that is a loop's tuple.

    Returns:
      None where the number depends on data and nothing is stated.
    """
    if known_count := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known_count[1])
    if stated := re.search(r"/at_most_(\d+)/while$", loop.op_name):
        return int(stated[1])
    inner = constants(module, inside, loop, known)
    condition = module.computations[loop.attribute("condition")]
    compared = _comparison(module, condition, inner)
    if compared is None:
        return None
    index, offset, direction, bound = compared
    start = _start(module, inside, loop, index, known)
    body = module.computations[loop.attribute("body")]
    step = _step(module, body, index, inner)
    if start is None or not step:
        return None
    left = bound - offset - start
    if direction == "NE" and left % step == 0 and left * step >= 0:
        return left // step
    if direction not in _SIGN or _SIGN[direction] * step < 0:
        return None
    if direction in ("LE", "GE"):
        left += _SIGN[direction]
    return max(0, math.ceil(left / step))
