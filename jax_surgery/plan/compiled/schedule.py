# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does on one chip: cycles, products, collectives, kernels.

Read from the program after code generation, where the compiler has written its own
static estimate of cycles on nearly every operation. The sum leaves out what has no
estimate: collectives (as if all were hidden behind computation) and Pallas kernels. It
is a lower bound of the program's time, and no measurement.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable

from jax_surgery.plan.compiled import hlo, loops, products
from jax_surgery.plan.compiled.collectives import collective
from jax_surgery.plan.compiled.scopes import scope

# Of an operation and what it contains, the first that holds: "product" before
# "reduction" before "move" (copies, slices, transposes) before "element-wise".
_CATEGORIES = {
    "product": set(products.PRODUCTS),
    "irregular": {"gather", "scatter", "sort"},
    "reduction": {"reduce", "reduce-window"},
}
# What moves or reinterprets data and computes nothing.
_MOVES = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"),
    *("transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice"),
    *("concatenate", "pad", "broadcast", "iota", "reverse", "bitcast-convert"),
    "fusion",
}


@dataclasses.dataclass
class Schedule:
    """What a program does on one chip each time that it runs.

    Attributes:
      work: cycles by (category, op_name). The category is one of `_CATEGORIES`, "move"
        or "element-wise". The op_name is where in the source it comes from, as
        `scopes.scope` reads it; of what the compiler added, where its operand or the
        loop around it comes from.
      flops: of matrix products outside Pallas kernels, recomputation included.
      collectives: (kind, bytes of one execution, executions) of each.
      kernels: calls of Pallas kernels, whose cycles the compiler does not know.
      unknown_loops: op_names of loops whose turns depend on data; one turn is counted.
    """

    work: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    flops: float = 0.0
    collectives: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)
    kernels: Counter[str] = dataclasses.field(default_factory=Counter)
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    @property
    def cycles(self) -> int:
        """Static lower bound; see the module."""
        return self.work.total()

    def _cycles_by(self, key: Callable[[str, str], str]) -> dict[str, int]:
        total = Counter()
        for names, cycles in self.work.items():
            total[key(*names)] += cycles
        return dict(total.most_common())

    def cycles_by_category(self) -> dict[str, int]:
        """Most first."""
        return self._cycles_by(lambda category, _: category)

    def cycles_by_scope(self, depth: int | None = None) -> dict[str, int]:
        """By phase and named scope, of `depth` nested scopes, most first."""
        return self._cycles_by(lambda _, op_name: scope(op_name, depth))

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of collectives as in `collectives.collective`, most first."""
        total = Counter()
        for kind, size, times in self.collectives:
            total[kind] += size * times
        return dict(total.most_common())

    def kernel_calls(self) -> dict[str, int]:
        """Calls of each Pallas kernel, most first."""
        return dict(self.kernels.most_common())


def _opcodes(instruction: hlo.Instruction) -> set[str]:
    """Its opcode and those of all that it calls."""
    called = (_opcodes(i) for inside in instruction.calls for i in inside.values())
    return {instruction.opcode}.union(*called)


def _category(instruction: hlo.Instruction) -> str:
    opcodes = _opcodes(instruction)
    for category, members in _CATEGORIES.items():
        if opcodes & members:
            return category
    return "move" if opcodes <= _MOVES else "element-wise"


def _source(instruction: hlo.Instruction) -> str:
    """Its op_name, or that of what it contains, or of what it takes."""
    while not instruction.op_name:
        for called in instruction.calls:
            for inner in called.values():
                if inner.op_name:
                    return inner.op_name
        if not instruction.operands or instruction.opcode in ("while", "tuple"):
            return ""
        instruction = instruction.operands[0]
    return instruction.op_name


def _kernel(instruction: hlo.Instruction) -> str:
    """The name of a Pallas kernel."""
    parts = instruction.op_name.split("/")
    named = len(parts) > 1 and parts[-1] == "pallas_call"
    name = parts[-2] if named else instruction.name.rpartition(".")[0]
    return name or instruction.name


class _Reader:
    """Walks a program in the order of execution, and notes what it meets."""

    def __init__(self):
        self.found = Schedule()
        self.chains: dict[tuple[str, str], int] = {}  # where in `found.collectives`

    def read(
        self,
        inside: hlo.Computation,
        times: int = 1,
        known: loops.Known | None = None,
        around: str = "",
        timed: bool = False,
    ) -> None:
        """Notes a computation.

        Args:
          inside: the computation.
          times: its executions.
          known: the constants in its parameter, where that is a loop's tuple.
          around: the op_name of the loop or fusion that it is in.
          timed: whether its cycles are noted with a fusion around it.
        """
        found, known = self.found, known or {}
        for instruction in inside.values():
            cycles, source = instruction.cycles, instruction.op_name or around
            found.flops += times * products.flops(instruction)
            if instruction.opcode == "while":
                turns = loops.trips(instruction, known)
                if turns is None:
                    found.unknown_loops.append(instruction.op_name or instruction.name)
                    turns = 1
                body = instruction.computation("body")
                inner = loops.constants(instruction, known)
                self.read(body, times * turns, inner, source, timed)
                continue
            if instruction.opcode == "conditional":
                # The branch of fewest cycles: the sum stays a lower bound.
                branch = min(instruction.calls, key=_cycles)
                self.read(branch, times, {}, around, timed)
                continue
            if cycles is not None and not timed:
                name = _category(instruction), _source(instruction) or around
                found.work[name] += cycles * times
            for called in instruction.calls:
                self.read(called, times, {}, source, timed or cycles is not None)
            self._note_collective(instruction, times)
            if instruction.quoted("custom_call_target") == "tpu_custom_call":
                found.kernels[_kernel(instruction)] += times

    def _note_collective(self, instruction: hlo.Instruction, times: int) -> None:
        """Notes a collective once.

        An asynchronous one is written where it starts, in each computation that overlaps
        with it, and where it ends; they share their chain. It may go on through an inner
        loop: it is executed as often as the part of it that is executed least.
        """
        collectives, found = self.found.collectives, collective(instruction)
        if found is None:
            return
        chain = instruction.quoted("chain_id")
        key = chain, instruction.attribute("channel_id")
        if chain and key in self.chains:
            index = self.chains[key]
            collectives[index] = (*found, min(collectives[index][2], times))
            return
        self.chains[key] = len(collectives)
        collectives.append((*found, times))


def _cycles(inside: hlo.Computation) -> int:
    reader = _Reader()
    reader.read(inside)
    return reader.found.cycles


def read(text: str, timed: bool = True) -> Schedule:
    """Reads a compiled program.

    Args:
      text: of the HLO module after code generation.
      timed: False takes the text from before it too, whose collectives and kernels
        are those of the program, and which has no cycles.

    Raises:
      ValueError: it is cut off, or from before code generation: it has no cycles.
    """
    reader = _Reader()
    reader.read(hlo.parse(text).entry)
    if timed and "kind=kLoop" in text and not reader.found.work:
        raise ValueError(
            "the program has fusions, and none has estimated_cycles: this is not its "
            "text after code generation for a TPU."
        )
    return reader.found
