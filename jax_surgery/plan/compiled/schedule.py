# SPDX-License-Identifier: Apache-2.0
"""What a compiled step does on one chip: cycles, products, collectives, kernels.

Read from the program after code generation, where the compiler has written its own
static estimate of cycles on nearly every operation. The sum leaves out what has no
estimate: collectives (as if all were hidden behind computation) and Pallas kernels. It
is a lower bound of the step's time, and no measurement.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable

from jax_surgery.plan.compiled import hlo, loops, products
from jax_surgery.plan.compiled.collectives import CHAIN, Collective, collective
from jax_surgery.plan.compiled.scopes import scope

# What moves or reinterprets data and computes nothing.
_MOVES = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"),
    *("transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice"),
    *("concatenate", "pad", "broadcast", "iota", "reverse", "bitcast-convert"),
}
_IRREGULAR = {"gather", "scatter", "sort"}


@dataclasses.dataclass(frozen=True)
class Work:
    """An operation that the compiler gives cycles.

    Attributes:
      category: "product", "irregular" (gather, scatter, sort), "reduction", "move"
        (copies, slices, transposes) or "element-wise": the first that it contains.
      op_name: where in the source it comes from, as `scopes.scope` reads it; of what
        the compiler added, where its operand or the loop around it comes from.
      cycles: of one execution.
      times: executions per step.
    """

    name: str
    category: str
    op_name: str
    cycles: int
    times: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A Pallas kernel, whose cycles the compiler does not know."""

    name: str
    op_name: str
    times: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A compiled step, on one chip.

    Attributes:
      flops: of matrix products outside Pallas kernels, recomputation included.
      unknown_loops: op_names of loops whose turns depend on data; one turn is counted.
    """

    work: tuple[Work, ...]
    flops: float
    collectives: tuple[Collective, ...]
    kernels: tuple[Kernel, ...]
    unknown_loops: tuple[str, ...]

    @property
    def cycles(self) -> int:
        """Static lower bound of a step; see the module."""
        return sum(work.cycles * work.times for work in self.work)

    def cycles_by(self, key: Callable[[Work], str]) -> dict[str, int]:
        """Cycles per step in groups, most first."""
        return _sums((key(work), work.cycles * work.times) for work in self.work)

    def cycles_by_category(self) -> dict[str, int]:
        return self.cycles_by(lambda work: work.category)

    def cycles_by_scope(self, depth: int | None = None) -> dict[str, int]:
        """By phase and named scope, of `depth` nested scopes."""
        return self.cycles_by(lambda work: scope(work.op_name, depth))

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of collectives per step, as in `Collective.bytes`, most first."""
        return _sums((c.kind, c.bytes) for c in self.collectives)

    def kernel_calls(self) -> dict[str, int]:
        """Calls of each Pallas kernel per step, most first."""
        return _sums((kernel.name, kernel.times) for kernel in self.kernels)


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    total = collections.Counter()
    for key, value in pairs:
        total[key] += value
    return dict(total.most_common())


class _Reader:
    """Walks a program in the order of execution, and notes what it meets."""

    def __init__(self, module: hlo.Module):
        self.module = module
        self.work: list[Work] = []
        self.flops = 0.0
        self.collectives: list[Collective] = []
        self.chains: dict[tuple[str, str], int] = {}  # where in `collectives`
        self.kernels: list[Kernel] = []
        self.unknown_loops: list[str] = []
        self.contents: dict[str, set[str]] = {}  # opcodes of computations

    def read(
        self,
        inside: hlo.Computation,
        times: int,
        known: loops.Known,
        around: str = "",
        timed: bool = False,
    ) -> None:
        """Notes a computation that runs `times` per step.

        Args:
          inside: the computation.
          times: its executions per step.
          known: the constants in its parameter, where that is a loop's tuple.
          around: the op_name of the loop or fusion that it is in.
          timed: whether its cycles are noted with a fusion around it.
        """
        for instruction in inside:
            cycles = instruction.cycles
            self.flops += times * products.flops(inside, instruction)
            if instruction.opcode == "while":
                self._loop(inside, instruction, times, known, around, timed)
                continue
            if instruction.opcode == "conditional":
                self._branch(instruction, times, around)
                continue
            if cycles is not None and not timed:
                self._note_work(inside, instruction, times, around)
            for name in instruction.calls:
                called = self.module.computations[name]
                source = instruction.op_name or around
                self.read(called, times, {}, source, timed or cycles is not None)
            self._note_collective(inside, instruction, times, around)
            if instruction.quoted("custom_call_target") == "tpu_custom_call":
                self._note_kernel(instruction, times)

    def _loop(self, inside, instruction, times, known, around, timed) -> None:
        turns = loops.trips(self.module, inside, instruction, known)
        if turns is None:
            self.unknown_loops.append(instruction.op_name or instruction.name)
            turns = 1
        body = self.module.computations[instruction.attribute("body")]
        inner = loops.constants(self.module, inside, instruction, known)
        self.read(body, times * turns, inner, instruction.op_name or around, timed)

    def _branch(self, instruction, times: int, around: str) -> None:
        """Notes the branch of fewest cycles: the sum stays a lower bound."""
        readers = []
        for name in instruction.calls:
            reader = _Reader(self.module)
            reader.read(self.module.computations[name], times, {}, around)
            readers.append(reader)
        fewest = min(readers, key=lambda r: sum(w.cycles * w.times for w in r.work))
        self.work += fewest.work
        self.flops += fewest.flops
        self.collectives += fewest.collectives
        self.kernels += fewest.kernels
        self.unknown_loops += fewest.unknown_loops

    def _contains(self, name: str) -> set[str]:
        """Opcodes of a computation and of all that it calls."""
        if name not in self.contents:
            opcodes = set()
            for instruction in self.module.computations[name]:
                opcodes.add(instruction.opcode)
                for called in instruction.calls:
                    opcodes |= self._contains(called)
            self.contents[name] = opcodes - {"fusion"}
        return self.contents[name]

    def _note_work(self, inside, instruction, times: int, around: str) -> None:
        opcodes = {instruction.opcode} - {"fusion"}
        for name in instruction.calls:
            opcodes |= self._contains(name)
        if opcodes & set(products.PRODUCTS):
            category = "product"
        elif opcodes & _IRREGULAR:
            category = "irregular"
        elif opcodes & {"reduce", "reduce-window"}:
            category = "reduction"
        else:
            category = "move" if opcodes <= _MOVES else "element-wise"
        source = self._source(inside, instruction) or around
        self.work.append(
            Work(instruction.name, category, source, instruction.cycles, times)
        )

    def _source(self, inside, instruction: hlo.Instruction) -> str:
        """Its op_name, or that of what it contains, or of what it takes."""
        while not instruction.op_name:
            for name in instruction.calls:
                for inner in self.module.computations[name]:
                    if inner.op_name:
                        return inner.op_name
            if not instruction.operands or instruction.opcode in ("while", "tuple"):
                return ""
            instruction = inside.instructions[instruction.operands[0]]
        return instruction.op_name

    def _note_collective(self, inside, instruction, times: int, around: str) -> None:
        found = collective(inside, instruction, times)
        if found is None:
            return
        if not found.op_name:
            source = self._source(inside, instruction) or around
            found = dataclasses.replace(found, op_name=source)
        if chain := instruction.quoted(CHAIN):
            key = chain, instruction.attribute("channel_id")
            if key in self.chains:
                # It may go on through an inner loop: it is executed as often as the
                # part of it that is executed least.
                index = self.chains[key]
                fewest = min(self.collectives[index].times, times)
                self.collectives[index] = dataclasses.replace(found, times=fewest)
                return
            self.chains[key] = len(self.collectives)
        self.collectives.append(found)

    def _note_kernel(self, instruction: hlo.Instruction, times: int) -> None:
        parts = instruction.op_name.split("/")
        named = len(parts) > 1 and parts[-1] == "pallas_call"
        name = parts[-2] if named else instruction.name.rpartition(".")[0]
        self.kernels.append(
            Kernel(name or instruction.name, instruction.op_name, times)
        )


def read(text: str, timed: bool = True) -> Schedule:
    """Reads a compiled program.

    Args:
      text: of the HLO module after code generation.
      timed: False takes the text from before it too, whose collectives and kernels
        are those of the program, and which has no cycles.

    Raises:
      ValueError: it is cut off, or from before code generation: it has no cycles.
    """
    module = hlo.parse(text)
    reader = _Reader(module)
    reader.read(module.entry, 1, {})
    if timed and "kind=kLoop" in text and not reader.work:
        raise ValueError(
            "the program has fusions, and none has estimated_cycles: this is not its "
            "text after code generation for a TPU."
        )
    return Schedule(
        tuple(reader.work),
        reader.flops,
        tuple(reader.collectives),
        tuple(reader.kernels),
        tuple(reader.unknown_loops),
    )
