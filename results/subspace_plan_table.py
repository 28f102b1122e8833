# SPDX-License-Identifier: Apache-2.0
"""A subspace removal on TPU slices that are not here: memory and operations.

Compiles the four programs of configs/plan.py with config.program=subspace for each
slice; nothing runs on a TPU.

    python results/subspace_plan_table.py

writes results/subspace_plan_table.md. About 30 minutes on 2 CPU cores; slices that
are finished in --workdir are not compiled again. Needs the extra `plan`.
"""

import argparse
import pathlib

from plan_table import results_of
from tables import line, markdown, versions

HERE = pathlib.Path(__file__).parent
GIB = 2**30
# model, slice, whether to compile to the end
CASES = [
    ("llama3.2_1b", "v5e:2x2", True),
    ("llama2_7b", "v5e:4x4", True),
    ("llama2_13b", "v5e:4x8", False),
    ("llama2_70b", "v5p:4x4x4", False),
    ("llama2_70b", "v6e:8x8", False),
]


def plan(model: str, topology: str, whole: bool, workdir: pathlib.Path) -> dict:
    """results.json of one case, made if it is not there."""
    folder = workdir / f"{model}_{topology.replace(':', '-')}"
    fields = [f"model={model}", f"topology={topology}", "program=subspace"]
    return results_of(folder, fields, whole)


def rows(found: dict) -> list[list[str]]:
    """The lines of a case, one a program."""
    lines = []
    for name, program in found["programs"].items():
        parts = program["memory"] or {}
        cells = [found["model"], found["topology"], str(found["chips"]), name]
        cells += [f"{program['needs'] / GIB:.2f}", f"{found['has'] / GIB:.2f}"]
        kinds = ("parameters", "kept tasks", "change", "temporaries")
        cells += [f"{parts[k] / GIB:.2f}" if k in parts else "" for k in kinds]
        cells.append("yes" if program["fits"] else "**no**")
        cells.append(f"{program['counted_flops'] / 1e12:,.1f}")
        traffic = sum(program.get("collectives", {}).values())
        cells.append(f"{traffic / 1e9:.1f}")
        if "seconds_at_least" in program:
            cells += [
                f"{program['flops'] / 1e12:,.1f}",
                f"{program['seconds_at_least']:.2f}",
                f"{program['compile_seconds']:.0f}",
            ]
        else:
            cells += [""] * 3
        lines.append(cells)
    return lines


def main() -> None:
    """Compiles all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="runs/subspace_plan_table")
    workdir = pathlib.Path(parser.parse_args().workdir).absolute()
    heads = ["model", "slice", "chips", "program", "needs GiB", "has", "parameters"]
    heads += ["kept tasks", "change", "temporaries", "fits", "TFLOP, all chips"]
    heads += ["collectives GB", "compiled TFLOP", "bound s", "compile s"]
    lines = []
    for case in CASES:
        for cells in rows(plan(*case, workdir)):
            lines.append(cells)
            print(line(cells), flush=True)
    text = f"""# A subspace removal on TPU slices, compiled and not run

`python results/subspace_plan_table.py` with {versions("jax", "libtpu")}, on 2 CPU cores. All seven
matrices of every layer move; a batch has one row of 2048 tokens per chip; float32
weights and moments, bfloat16 products in the model, float32 ones in the algebra.

*moments* adds one batch's second moments of the matrices' inputs; *ridge* makes the
Cholesky factors of all of them, once a removal; *round* is one removing round, gradient
and triangular solves; *factors* are those of the final change, at rank 64.

*needs* is what the compiler assigns on each chip, and the model where a program does not
take it, of what a program may use (*has*). The matrices before the first round are not
in it. *TFLOP* are counted from shapes (`plan/programs.py`); *compiled TFLOP* are
those of the matrix products in the compiled programs, recomputation included and
attention kernels not. A product in float32 counts once, though a chip makes six passes
of it. *collectives* are bytes of the tensors on each chip. *bound* is a static lower
bound of the time: cycles that the compiler schedules, without waiting for other chips;
loops inside small decompositions (*factors*) are of unknown length and count once.
*compile s* is on the clock, on a machine that was busy with other work too. Where these
three are missing, memory alone was asked (`config.fast`).

"""
    (HERE / "subspace_plan_table.md").write_text(text + markdown(heads, lines))


if __name__ == "__main__":
    main()
