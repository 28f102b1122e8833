# SPDX-License-Identifier: Apache-2.0
"""Communication between the chips of a compiled program: which kind, and how much.

The compiler chooses the kind: a gather of weights may become an all-reduce, and a
reduce-scatter an all-reduce that is fused with a slice. Here is what it chose.
"""

from jax_surgery.plan.compiled import hlo

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)


def collective(instruction: hlo.Instruction) -> tuple[str, int] | None:
    """The collective that begins with an instruction; None where none does.

    Returns:
      (kind, bytes). The kind is one of KINDS; of slices joined by a network, such as
      "all-reduce between slices". The bytes are of the tensors that are gathered
      (whole), reduced (whole), exchanged or sent, on a chip: a ring sends about as much
      for a gather or a reduce-scatter, and twice as much for an all-reduce.
    """
    taken = [array for i in instruction.operands for array in hlo.arrays(i.shape)]
    rendezvous = instruction.quoted("_xla_host_transfer_rendezvous")
    if instruction.opcode == "send" and rendezvous:
        # Between slices: the network's own program reduces or gathers what is sent.
        return f"{rendezvous.rpartition('_')[0]} between slices", taken[0].bytes
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    size = sum(array.bytes for array in taken)
    if kind == "all-gather":
        result = sum(a.bytes for a in hlo.arrays(instruction.shape) if a.dims)
        # The result of one that starts here holds what it takes as well.
        size = result if instruction.opcode == kind else result - size
    elif kind == "all-reduce" and instruction.inside.name.startswith(
        "all-reduce-scatter"
    ):
        kind = "reduce-scatter"  # fused with the slice that a chip keeps
    return kind, size
