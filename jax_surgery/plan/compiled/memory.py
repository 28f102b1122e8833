# SPDX-License-Identifier: Apache-2.0
"""The memory of a chip that a compiled program needs, as the compiler states it.

The compiler writes its buffer assignment before it generates code, so that memory is
known long before a compilation ends. `jax.stages.Compiled.memory_analysis` says the
same of arguments, outputs and temporaries (a test compares them), but not before the
end, and it leaves out constants: 0.2 GiB of the 7B step on v6e.
"""

import dataclasses
import re

_ALLOCATION = re.compile(
    r"^allocation \d+: size (\d+), page \d+,?( parameter)?", re.MULTILINE
)
_TOTAL = re.compile(r"Memory Space: default \(color=0\)\nTotal bytes: (\d+)")
_TOO_MUCH = re.compile(
    r"CompileTimeHbmOom.*?\(([\d.]+)([KMGT]?)\) exceeds available HBM "
    r"\(([\d.]+)([KMGT]?)\)",
    re.DOTALL,
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's memory.

    Attributes:
      arguments: those that the program reads, with the padding of the chip's tiles.
      added: temporaries, constants, and outputs that take no argument's place.
    """

    arguments: int
    added: int

    @property
    def total(self) -> int:
        return self.arguments + self.added


def read(assignment: str, report: str) -> Memory:
    """Reads what XLA dumps about the buffers of one program.

    Args:
      assignment: "...-buffer-assignment.txt".
      report: "...-memory-usage-report.txt", whose total must agree.

    Raises:
      ValueError: a text is cut off, or they are not of the same program.
    """
    # An allocation with a colour is in one of the chip's faster, smaller memories.
    found = [(int(m[1]), bool(m[2])) for m in _ALLOCATION.finditer(assignment)]
    total = sum(size for size, _ in found)
    stated = _TOTAL.search(report)
    if not stated or int(stated[1]) != total:
        raise ValueError(
            f"the buffer assignment adds up to {total} bytes and the report to "
            f"{stated[1] if stated else 'nothing'}: a text is cut off, or of another "
            "program."
        )
    arguments = sum(size for size, is_argument in found if is_argument)
    return Memory(arguments, total - arguments)


def out_of_memory(message: str) -> tuple[float, float] | None:
    """(bytes needed, bytes available) in the compiler's error; None in any other."""
    match = _TOO_MUCH.search(message)
    if not match:
        return None
    needed, unit, available, other = match.groups()
    return float(needed) * _UNITS[unit], float(available) * _UNITS[other]
