# SPDX-License-Identifier: Apache-2.0
"""How often a compiled loop runs: its counter is run here.

A scan becomes a `while` over a tuple, one element of which counts: the body adds a
constant to it, and the condition compares it with a constant. The constants may be
elements of the tuple themselves (of an outer loop's as well). So the loop's own
integers are computed turn by turn, until its condition says that it ends. Of a loop
whose turns depend on data the source may state the most there can be
(`parallel.scopes.at_most`).
"""

import operator
import re
from collections.abc import Iterable

from jax_surgery.plan.compiled.hlo import Instruction

# Elements of a loop's tuple that are known integers, by index.
Known = dict[int, int]

MOST = 100_000  # turns; a counter that has not ended then is none
_SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done")
# Of compare by its direction.
_OPERATIONS = {"add": operator.add, "subtract": operator.sub} | {
    name.upper(): getattr(operator, name)
    for name in ("lt", "le", "gt", "ge", "eq", "ne")
}


def _integer(
    instruction: Instruction, known: Known, arguments: tuple[int | None, ...] = ()
) -> int | None:
    """An instruction's result where it is an integer that follows from known ones.

    Args:
      known: elements of the computation's only parameter, a tuple.
      arguments: instead, what a fusion's parameters are.
    """
    operands = instruction.operands

    def of(operand: Instruction) -> int | None:
        return _integer(operand, known, arguments)

    match instruction.opcode:
        case "constant":
            whole = re.fullmatch(r"-?\d+", instruction.argument)
            return int(whole[0]) if whole else None
        case "parameter":
            number = int(instruction.argument)
            return arguments[number] if number < len(arguments) else None
        case "get-tuple-element":
            index, source = int(instruction.attribute("index")), operands[0]
            if source.opcode == "tuple":
                return of(source.operands[index])
            return known.get(index) if source.opcode == "parameter" else None
        case "fusion":
            return _integer(instruction.calls[0].root, {}, tuple(map(of, operands)))
        case "add" | "subtract" | "compare":
            name = instruction.attribute("direction") or instruction.opcode
            left, right = map(of, operands)
            if left is None or right is None:
                return None
            return _OPERATIONS[name](left, right)
        case opcode if opcode in _SAME:
            return of(operands[0])
    return None


def _integers(elements: Iterable[tuple[int, Instruction]], known: Known) -> Known:
    """The numbered instructions whose results are integers that follow from known ones."""
    values = {index: _integer(each, known) for index, each in elements}
    return {index: value for index, value in values.items() if value is not None}


def _before(loop: Instruction, known: Known) -> Known:
    """The known elements of a loop's tuple before its first turn.

    Args:
      known: those of the tuple that the computation around the loop takes.
    """
    (source,) = loop.operands
    if source.opcode == "parameter":  # the computation's tuple is passed on as it is
        return known
    elements = source.operands if source.opcode == "tuple" else []
    return _integers(enumerate(elements), known)


def _after(loop: Instruction, known: Known) -> Known:
    """The elements of `known` after one turn, as far as they follow from it."""
    root = loop.computation("body").root
    made = root.operands if root.opcode == "tuple" else []
    return _integers(((i, each) for i, each in enumerate(made) if i in known), known)


def constants(loop: Instruction, known: Known) -> Known:
    """The elements of a loop's tuple that are the same integer in every turn.

    Args:
      known: as `trips`.
    """
    before = _before(loop, known)
    # By itself: an element that takes another's value may change later.
    return {
        index: value
        for index, value in before.items()
        if _after(loop, {index: value}) == {index: value}
    }


def trips(loop: Instruction, known: Known) -> int | None:
    """How many turns a loop makes, or at most makes where its source says so.

    Args:
      loop: a "while".
      known: the constants in the parameter of the computation that it is in, where
        that is a loop's tuple.

    Returns:
      None where the number depends on data and nothing is stated.
    """
    if known_count := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known_count[1])
    if stated := re.search(r"/at_most_(\d+)/while$", loop.op_name):
        return int(stated[1])
    condition = loop.computation("condition").root
    elements = _before(loop, known)
    for turns in range(MOST):
        goes_on = _integer(condition, elements)
        if not goes_on:
            return None if goes_on is None else turns
        elements = _after(loop, elements)
    return None
