# SPDX-License-Identifier: Apache-2.0
"""The memory of a chip that a compiled step needs, from XLA's buffer assignment.

The compiler assigns every buffer its place before it generates code, so that this is
known long before a compilation ends. Arguments, outputs and constants have places of
their own; all temporaries share one heap, whose fullest moment says what to save on.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator

from jax_surgery.plan.compiled import hlo

_ALLOCATION = re.compile(r"allocation \d+: size (\d+),( color \d+,)? page \d+,? ?(.*)")
_VALUE = re.compile(
    r" value: <\d+ ([^\s{]+)(\{[\d,]*\})?( \(phi\))? @\d+> "
    r"\(size=(\d+),offset=(\d+)\): (.*)"
)
_RANGE = re.compile(r"^    ([^\s{]+)(\{[\d,]*\}):(\d+)-(\d+)$", re.MULTILINE)
_TOTAL = re.compile(r"Memory Space: default \(color=0\)\nTotal bytes: (\d+)")
_TOO_MUCH = re.compile(
    r"CompileTimeHbmOom.*?\(([\d.]+)([KMGT]?)\) exceeds available HBM "
    r"\(([\d.]+)([KMGT]?)\)",
    re.DOTALL,
)
_COPIES = ("copy", "copy-start", "copy-done", "bitcast")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A buffer in a chip's memory.

    Attributes:
      op_name: of an argument its path, "params['layers']['q']"; of a temporary where
        in the source it comes from, as `scopes.scope` reads it.
      shape: of the chip's part, "bf16[32,256,4096]".
      bytes: with the padding of the chip's tiles.
      donated: whether an output takes the place of this argument.
    """

    op_name: str
    shape: str
    bytes: int
    donated: bool = False


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's memory that a step needs; the parts add up to `total`.

    Attributes:
      arguments: every argument.
      outputs: that take no argument's place.
      constants: and what else has a place of its own; a few KiB.
      temporaries: the heap.
      peak: what the heap holds at its fullest moment, largest first. What is missing
        to `temporaries` is between the buffers.
    """

    arguments: tuple[Buffer, ...]
    outputs: int
    constants: int
    temporaries: int
    peak: tuple[Buffer, ...]

    @property
    def total(self) -> int:
        arguments = sum(buffer.bytes for buffer in self.arguments)
        return arguments + self.outputs + self.constants + self.temporaries

    def arguments_by(self, key: Callable[[str], str]) -> dict[str, int]:
        """Bytes of arguments in groups of their paths, most first."""
        total = collections.Counter()
        for buffer in self.arguments:
            total[key(buffer.op_name)] += buffer.bytes
        return dict(total.most_common())


@dataclasses.dataclass(frozen=True)
class _Value:
    """A buffer in the heap: element `index` of what instruction `name` returns."""

    name: str
    index: str  # "{}" or "{2}"
    shape: str
    bytes: int
    offset: int


def _label(name: str, index: str) -> str:
    return name + (index or "{}")


class _Sources:
    """Says where in the source a buffer of a program comes from."""

    def __init__(self, module: hlo.Module):
        self.home = {
            i.name: (inside, i)
            for inside in module.computations.values()
            for i in inside
        }
        self.module = module
        self.loops = {}  # by the name of its body
        for _, instruction in self.home.values():
            if instruction.opcode == "while":
                self.loops[instruction.attribute("body")] = instruction

    def of(self, name: str, index: str = "{}") -> str:
        """The op_name of an instruction, or of what its element is computed from."""
        seen = set()
        while name in self.home and (name, index) not in seen:
            seen.add((name, index))
            inside, instruction = self.home[name]
            loop = self.loops.get(inside.name)
            if instruction.opcode == "parameter" and loop is not None:
                instruction = loop  # element of the tuple that the loop carries
            if instruction.opcode == "while" and re.fullmatch(r"\{\d+\}", index):
                name, index = self._carried(instruction, int(index[1:-1]))
                continue
            if instruction.op_name or not instruction.operands:
                return instruction.op_name
            if instruction.opcode == "get-tuple-element":
                index = f"{{{instruction.attribute('index')}}}"
            name = instruction.operands[0]
        return ""

    def _carried(self, loop: hlo.Instruction, index: int) -> tuple[str, str]:
        """What a loop leaves in an element of its tuple; of an element that it only
        passes on, what it was given."""
        body = self.module.computations[loop.attribute("body")]
        name = body.root.operands[index] if body.root.opcode == "tuple" else ""
        last = body.instructions.get(name)
        while last and last.opcode in _COPIES:  # to a faster memory and back
            last = body.instructions[last.operands[0]]
        if last and last.opcode == "get-tuple-element":
            source = body.instructions[last.operands[0]]
            if source.opcode == "parameter" and last.attribute("index") == str(index):
                given = self.home[loop.operands[0]][1]
                if given.opcode == "tuple":
                    return given.operands[index], "{}"
        return name, "{}"


def _fullest(
    values: list[_Value], ranges: dict[str, tuple[int, int]]
) -> dict[int, _Value]:
    """The values by offset at the moment when they take the most bytes.

    Values of one place that live at once are one buffer, changed in place: the last
    of them names it.
    """
    starts, ends = collections.defaultdict(list), collections.defaultdict(list)
    for value in values:
        first, last = ranges[_label(value.name, value.index)]
        starts[first].append(value)
        ends[last + 1].append(value)
    living, used = collections.defaultdict(list), 0
    most, fullest = -1, {}
    for moment in sorted({*starts, *ends}):
        for value in ends[moment]:
            living[value.offset].remove(value)
        for value in starts[moment]:
            living[value.offset].append(value)
        largest = {
            offset: max(reversed(here), key=lambda value: value.bytes)
            for offset, here in living.items()
            if here
        }
        used = sum(value.bytes for value in largest.values())
        if used > most:
            most, fullest = used, largest
    return fullest


def _allocations(text: str) -> Iterator[tuple[int, str, list[_Value]]]:
    """Size, description and values of every allocation in the chip's main memory."""
    size, description, values = 0, "", None
    for line in text.splitlines():
        if match := _ALLOCATION.match(line):
            if values is not None:
                yield size, description, values
            # Other colours are the chip's faster and smaller memories.
            values = None if match[2] else []
            size, description = int(match[1]), match[3]
        elif values is not None and (match := _VALUE.match(line)):
            values.append(
                _Value(
                    match[1], match[2] or "{}", match[6], int(match[4]), int(match[5])
                )
            )
    if values is not None:
        yield size, description, values


def _plain(shape: str) -> str:
    """A shape without layout."""
    return re.sub(r"\{[^{}]*\}", "", shape)


def read(assignment: str, live_ranges: str, program: str, report: str) -> Memory:
    """Reads what XLA dumps about the buffers of one program.

    Args:
      assignment: "...-buffer-assignment.txt".
      live_ranges: "...-live-range.txt".
      program: the HLO module of the same moment, for the sources.
      report: "...-memory-usage-report.txt", whose total must agree.

    Raises:
      ValueError: a text is cut off, or they are not of the same program.
    """
    sources = _Sources(hlo.parse(program))
    ranges = {
        _label(m[1], m[2]): (int(m[3]), int(m[4])) for m in _RANGE.finditer(live_ranges)
    }
    arguments, outputs, constants, temporaries, heap = [], 0, 0, 0, []
    for size, description, values in _allocations(assignment):
        if "preallocated-temp" in description:
            temporaries += size
            heap += values
        elif shape := re.search(r"parameter \d+, shape \|(.*?)\|", description):
            op_name = sources.of(values[0].name, values[0].index) if values else ""
            donated = "maybe-live-out" in description
            arguments.append(Buffer(op_name, shape[1], size, donated))
        elif "maybe-live-out" in description:
            outputs += size
        else:
            constants += size
    missing = [v.name for v in heap if _label(v.name, v.index) not in ranges]
    stated = _TOTAL.search(report)
    fullest = {} if missing else _fullest(heap, ranges)
    peak = sorted(
        (
            Buffer(sources.of(v.name, v.index), _plain(v.shape), v.bytes)
            for v in fullest.values()
        ),
        key=lambda buffer: -buffer.bytes,
    )
    memory = Memory(tuple(arguments), outputs, constants, temporaries, tuple(peak))
    if missing or not stated or int(stated[1]) != memory.total:
        raise ValueError(
            f"the buffer assignment adds up to {memory.total} bytes and the report to "
            f"{stated[1] if stated else 'nothing'}; {len(missing)} buffers have no "
            "live range: a text is cut off, or of another program."
        )
    return memory


def out_of_memory(message: str) -> tuple[float, float] | None:
    """(bytes needed, bytes there are) in the compiler's error; None in any other."""
    match = _TOO_MUCH.search(message)
    if not match:
        return None
    needed, unit, available, other = match.groups()
    return float(needed) * _UNITS[unit], float(available) * _UNITS[other]
