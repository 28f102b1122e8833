# SPDX-License-Identifier: Apache-2.0
"""Reads the text of a compiled program (HLO): what it computes, in which order.

Only what a plan of a step needs: names, shapes, operands, which computation calls
which, constants, and the few attributes asked for below.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# bf16[8,128]{1,0:T(8,128)(2,1)} inside an array's or a tuple's shape.
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_HEADER = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([^\s=]+) = ")
_NAME = re.compile(r"%([^\s,()]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape, without its layout."""

    dtype: str  # "bf16"
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without the padding of the chip's tiles."""
        if self.dtype == "pred":
            return self.size
        bits = re.search(r"\d+", self.dtype)  # f8e4m3fn is 8; a token has none
        return math.ceil(self.size * int(bits[0]) / 8) if bits else 0


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape's text; of a tuple, all that it holds."""
    return tuple(
        Array(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d))
        for dtype, dims in _ARRAY.findall(shape)
    )


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      shape: of its result, as text; `arrays` reads it.
      opcode: such as "fusion", "all-gather-start", "while".
      operands: names of instructions of the same computation.
      argument: what stands in the parentheses; the value of a constant.
      attributes: the text behind them.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    argument: str
    attributes: str

    def attribute(self, name: str) -> str:
        """Such as "LT" of direction=LT, with no leading %; "" where there is none."""
        match = re.search(rf"\b{name}=%?([^\s,{{}}]+)", self.attributes)
        return match[1].strip('"') if match else ""

    def quoted(self, name: str) -> str:
        """The value of name="value"; "" where there is none."""
        match = re.search(rf'\b{name}="((?:[^"\\]|\\.)*)"', self.attributes)
        return re.sub(r"\\(.)", r"\1", match[1]) if match else ""

    @property
    def op_name(self) -> str:
        """Where in the source it comes from: "jit(step)/jvp()/mlp/dot_general"."""
        return self.quoted("op_name")

    @property
    def cycles(self) -> int | None:
        """The compiler's static estimate; None where it makes none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @property
    def calls(self) -> tuple[str, ...]:
        """Computations it runs once: a fusion's, a call's, a conditional's branches.

        A loop's are `condition` and `body`; those of to_apply are applied to elements.
        """
        if self.opcode in ("call", "async-start"):
            return tuple(
                filter(None, (self.attribute("to_apply") or self.attribute("calls"),))
            )
        if branches := re.search(r"branch_computations=\{([^}]*)\}", self.attributes):
            return tuple(_NAME.findall(branches[1]))
        names = ("calls", "true_computation", "false_computation")
        return tuple(filter(None, map(self.attribute, names)))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Names of its parameters by number."""
        return {
            int(i.argument): i.name
            for i in self.instructions.values()
            if i.opcode == "parameter"
        }

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results it takes."""
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: Computation


def _balanced(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise ValueError(f"no closing parenthesis in {text[start : start + 80]!r}")


def _instruction(name: str, text: str) -> Instruction:
    """Reads "shape opcode(argument), attributes"."""
    if text.startswith("("):
        end = _balanced(text, 0)
        shape, rest = text[:end], text[end + 1 :]
    else:
        shape, _, rest = text.partition(" ")
    opcode = rest[: rest.index("(")]
    end = _balanced(rest, len(opcode))
    argument = rest[len(opcode) + 1 : end - 1]
    operands = () if opcode == "constant" else tuple(_NAME.findall(argument))
    return Instruction(name, shape, opcode, operands, argument, rest[end:])


def _computation(name: str, lines: list[str]) -> Computation:
    """Reads the lines between a computation's braces; an instruction may take many."""
    found, root = [], None
    for line in lines:
        if match := _INSTRUCTION.match(line):
            found.append([match[2], line[match.end() :]])
            root = match[2] if match[1] else root
        elif found:
            found[-1][1] += "\n" + line
    instructions = {name: _instruction(name, text) for name, text in found}
    if root is None:
        raise ValueError(f"computation {name} has no ROOT: the text is cut off.")
    return Computation(name, instructions, instructions[root])


def parse(text: str) -> Module:
    """Reads a module's text, as XLA dumps it or `compiled.as_text()` returns it.

    Raises:
      ValueError: it has no ENTRY computation, or ends within one.
    """
    computations, entry, name, body = {}, "", "", None
    for line in text.splitlines():
        if body is None:
            if match := _HEADER.match(line):
                name, body = match[2], []
                entry = name if match[1] else entry
        elif line == "}" or line.startswith("}, "):  # with the thread that runs it
            computations[name] = _computation(name, body)
            body = None
        else:
            body.append(line)
    if body is not None or entry not in computations:
        raise ValueError(
            "this is not the whole text of an HLO module: "
            + (f"{name} does not end" if body is not None else "it has no ENTRY")
        )
    return Module(computations, computations[entry])
