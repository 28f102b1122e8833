# SPDX-License-Identifier: Apache-2.0
"""Communication between the chips of a compiled step: which kind, and how much.

The compiler chooses the kind: a gather of weights may become an all-reduce, and a
reduce-scatter an all-reduce that is fused with a slice. Here is what it chose.
"""

import dataclasses

from jax_surgery.plan.compiled import hlo

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)
# An asynchronous collective is written once where it starts, in each computation that
# overlaps with it, and where it ends; they share this attribute.
CHAIN = "chain_id"


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between chips.

    Attributes:
      kind: of KINDS; of slices joined by a network, such as "all-reduce between
        slices".
      tensors: what is gathered (whole), reduced (whole), exchanged or sent, on a chip.
      times: executions per step.
    """

    kind: str
    tensors: tuple[hlo.Array, ...]
    op_name: str
    times: int

    @property
    def bytes(self) -> int:
        """Of a chip's tensors in a step; a ring sends about as much for a gather or a
        reduce-scatter, and twice as much for an all-reduce."""
        return self.times * sum(tensor.bytes for tensor in self.tensors)


def collective(
    inside: hlo.Computation, instruction: hlo.Instruction, times: int
) -> Collective | None:
    """The collective that begins with an instruction; None where none does.

    Args:
      inside: the computation that the instruction is in.
      instruction: any.
      times: its executions per step.
    """
    rendezvous = instruction.quoted("_xla_host_transfer_rendezvous")
    taken = [a for i in inside.operands(instruction) for a in hlo.arrays(i.shape)]
    if instruction.opcode == "send" and rendezvous:
        # Between slices: the network's own program reduces or gathers what is sent.
        kind = f"{rendezvous.rpartition('_')[0]} between slices"
        return Collective(kind, tuple(taken[:1]), instruction.op_name, times)
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    tensors = taken
    if kind == "all-gather":
        tensors = [a for a in hlo.arrays(instruction.shape) if a.dims]
        if instruction.opcode != kind:  # its result holds what it takes as well
            for array in taken:
                tensors.remove(array)
    elif kind == "all-reduce" and inside.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # fused with the slice that a chip keeps
    return Collective(kind, tuple(tensors), instruction.op_name, times)
