# SPDX-License-Identifier: Apache-2.0
"""Reads the text of a compiled program (HLO): what it computes, in which order.

Only what a plan of a step needs: names, shapes, operands, which computation calls
which, constants, and the few attributes asked for below.
"""

import dataclasses
import functools
import math
import re

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Instruction:
    """One instruction of a computation.

    Attributes:
      inside: the computation that it is in.
      shape: of its result, as text; `arrays` reads it.
      opcode: such as "fusion", "all-gather-start", "while".
      argument: what stands in the parentheses; the value of a constant.
      attributes: the text behind them.
    """

    inside: "Computation"
    name: str
    shape: str
    opcode: str
    argument: str
    attributes: str

    @functools.cached_property
    def operands(self) -> list["Instruction"]:
        """The instructions whose results it takes."""
        if self.opcode == "constant":
            return []
        return [self.inside[name] for name in _NAME.findall(self.argument)]

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

    def computation(self, attribute: str) -> "Computation":
        """The one that an attribute names: a loop's "condition" or "body"."""
        return self.inside.module[self.attribute(attribute)]

    @functools.cached_property
    def calls(self) -> list["Computation"]:
        """What it runs once: a fusion's computation, a call's, a conditional's branches.

        A loop's are `condition` and `body`; those of to_apply are applied to elements.
        """
        if branches := re.search(r"branch_computations=\{([^}]*)\}", self.attributes):
            names = _NAME.findall(branches[1])
        else:
            kinds = ["calls", "true_computation", "false_computation"]
            if self.opcode in ("call", "async-start"):
                kinds.append("to_apply")
            names = filter(None, map(self.attribute, kinds))
        return [self.inside.module[name] for name in names]


class Computation(dict[str, Instruction]):
    """Instructions by name, in the order in which they run.

    Attributes:
      module: every computation of the program, by name.
      root: the instruction whose result is the computation's.
    """

    root: Instruction

    def __init__(self, name: str, module: "Module"):
        super().__init__()
        self.name, self.module = name, module


class Module(dict[str, Computation]):
    """A whole program: its computations by name, of which `entry` is run."""

    entry: Computation


def _balanced(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise ValueError(f"no closing parenthesis in {text[start : start + 80]!r}")


def _instruction(inside: Computation, name: str, text: str) -> Instruction:
    """Reads "shape opcode(argument), attributes"."""
    if text.startswith("("):
        end = _balanced(text, 0)
        shape, rest = text[:end], text[end + 1 :]
    else:
        shape, _, rest = text.partition(" ")
    opcode = rest[: rest.index("(")]
    end = _balanced(rest, len(opcode))
    argument = rest[len(opcode) + 1 : end - 1]
    return Instruction(inside, name, shape, opcode, argument, rest[end:])


def _read(found: Computation, lines: list[str]) -> None:
    """Reads the lines between a computation's braces; an instruction may take many."""
    texts, name, root = {}, "", ""
    for line in lines:
        if match := _INSTRUCTION.match(line):
            name = match[2]
            texts[name] = line[match.end() :]
            root = name if match[1] else root
        elif name:
            texts[name] += "\n" + line
    if not root:
        raise ValueError(f"computation {found.name} has no ROOT: the text is cut off.")
    found |= {name: _instruction(found, name, text) for name, text in texts.items()}
    found.root = found[root]


def parse(text: str) -> Module:
    """Reads a module's text, as XLA dumps it or `compiled.as_text()` returns it.

    Raises:
      ValueError: it has no ENTRY computation, or ends within one.
    """
    module, entry, name, body = Module(), "", "", None
    for line in text.splitlines():
        if body is None:
            if match := _HEADER.match(line):
                name, body = match[2], []
                entry = name if match[1] else entry
        elif line == "}" or line.startswith("}, "):  # with the thread that runs it
            module[name] = Computation(name, module)
            _read(module[name], body)
            body = None
        else:
            body.append(line)
    if body is not None or entry not in module:
        raise ValueError(
            "this is not the whole text of an HLO module: "
            + (f"{name} does not end" if body is not None else "it has no ENTRY")
        )
    module.entry = module[entry]
    return module
