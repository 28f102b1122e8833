# SPDX-License-Identifier: Apache-2.0
"""What each config of configs/models/ needs on its slice, compiled and not run.

    python results/model_plans.py

plans every one of them (configs/plan.py:models/NAME), writes results/model_plans.md and the
line "Plan:" of each config's docstring. About 40 minutes on 2 CPU cores; what is finished in
--workdir is not compiled again. Needs the extra `plan`.
"""

import argparse
import importlib
import json
import pathlib
import re
import sys

from plan_table import GIB, results_of
from tables import line, markdown, versions

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "models"
MOST = 0.9  # of a chip's memory
SPLIT = 64  # chips from which on `fsdp` has two axes
HEADS = ["config", "model", "slice", "moves", "tokens a step"]
HEADS += ["needs GiB", "has", "share"]
HEADS += ["all-gather GB", "reduce-scatter", "all-reduce", "permute", "other"]
HEADS += ["a step takes at least s", "MFU at most"]
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")


def names() -> list[str]:
    """The configs of configs/models/."""
    files = sorted(path.stem for path in FOLDER.glob("*.py"))
    return [name for name in files if name not in ("__init__", "base")]


def traffic(collectives: dict[str, float]) -> list[str]:
    """GB by kind, those of `KINDS` and all others."""
    found = [collectives.get(kind, 0) for kind in KINDS]
    found.append(sum(collectives.values()) - sum(found))
    return [f"{size / 1e9:.1f}" for size in found]


def row(name: str, found: dict) -> list[str]:
    """A line of the table."""
    run, rows = found["settings"]["surgery"], found["rows"]
    module = importlib.import_module(f"configs.models.{name}")
    counts = [rows[role] for role in ("unlearn", "update", "retain")]
    assert len(set(counts)) == 1
    moves = f"deltas of rank {run['lora']['rank']}" if run["lora"]["rank"] else "all"
    cells = [name, module.ARCHITECTURE, module.SLICE, moves]
    cells.append(f"3 x {counts[0]} x {run['data']['context']}")
    cells += [f"{found['needs'] / GIB:.2f}", f"{found['has'] / GIB:.2f}"]
    cells.append(f"{found['needs'] / found['has']:.0%}")
    cells += traffic(found["collectives"])
    speed = found["speed"]
    return [*cells, f"{speed['seconds_at_least']:.2f}", f"{speed['mfu_at_most']:.0%}"]


def plan_line(cells: list[str]) -> str:
    """The line of a config's docstring, from its line of the table."""
    of = dict(zip(HEADS, cells, strict=True))
    return (
        f"Plan: {of['needs GiB']} of {of['has']} GiB per chip; a step of "
        f"{of['tokens a step']} tokens takes at least {of[HEADS[-2]]} s."
    )


def write_line(name: str, text: str) -> None:
    """Puts the line "Plan:" into a config's docstring."""
    path = FOLDER / f"{name}.py"
    changed, count = re.subn(r"(?m)^Plan: .*$", text, path.read_text())
    assert count == 1, f"{path} needs one line that begins with 'Plan: '"
    path.write_text(changed)


def on_one_axis(name: str, found: dict, file: pathlib.Path) -> dict:
    """Memory and traffic of a plan where `fsdp` is one axis of the mesh."""
    from jax_surgery.plan import lowering
    from jax_surgery.plan.compiled import dump

    if not file.exists():
        settings = file.with_suffix(".settings")
        settings.write_text(json.dumps(found["settings"]))
        command = [sys.executable, __file__, "--one-axis", str(settings)]
        memory, program = dump.compiled(command, "jit_step")
        asked = lowering.read(settings)
        config = lowering.architecture_of(asked.model)
        call = lowering.call("step", asked, config, lowering.mesh_of(asked))
        needs = call.memory(memory)["total"]
        read = {"needs": needs, "collectives": program.bytes_by_kind()}
        file.write_text(json.dumps(read))
    return json.loads(file.read_text())


def compile_on_one_axis(settings: str) -> None:
    """Compiles a step for the slice of a file of settings, on such a mesh."""
    from jax_surgery.parallel import mesh as meshes
    from jax_surgery.plan import lowering

    meshes.MOST_ALONG_ONE_AXIS = sys.maxsize
    lowering.main(settings)


def main() -> None:
    """Plans all configs; writes the table and the docstrings' lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="runs/model_plans")
    parser.add_argument("--one-axis", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_axis:
        compile_on_one_axis(arguments.one_axis)
        return
    workdir = pathlib.Path(arguments.workdir).absolute()
    rows, layouts = [], []
    for name in names():
        folder = workdir / name
        found = results_of(folder, ["neighbours=no"], True, f"models/{name}")
        rows.append(row(name, found))
        print(line(rows[-1]), flush=True)
        assert found["needs"] <= MOST * found["has"], f"{name} fills its chips"
        write_line(name, plan_line(rows[-1]))
        if found["chips"] >= SPLIT:
            before = on_one_axis(name, found, workdir / f"{name}-one-axis.json")
            for axes, read in (("one", before), ("two", found)):
                needs = f"{read['needs'] / GIB:.2f}"
                layouts.append([name, axes, needs, *traffic(read["collectives"])])
    text = f"""# The configs of configs/models/ on their slices, compiled and not run

`python results/model_plans.py` with {versions("jax", "libtpu")}. One row of each of the three roles per
chip; float32 master weights and AdamW moments where all parameters move, else a frozen bfloat16
model; bfloat16 products, full remat, cached reference.

*needs* is what the compiler assigns on each chip, of what it lets a program use (*has*); none
may exceed {MOST:.0%}. Collectives are bytes of the tensors on each chip per step; a gradient's
reduce-scatter overlapped with its product appears as collective-permutes. The least time of
a step is a static bound: cycles that the compiler schedules, without waiting for other chips
and without attention kernels; MFU counts 6 operations a weight and token, also where deltas
alone move. Nothing was run on a TPU.

{markdown(HEADS, rows)}
## Gradients on 64 chips and more

With `fsdp` as one axis of the mesh the compiler all-reduces gradients in full; a ring sends
twice as much for an all-reduce as for a reduce-scatter. So from 64 chips on the mesh has two
axes for `fsdp`, each of whole sides of the slice, and a gradient is scattered over one after the
other (`jax_surgery/parallel/mesh.py`); what is all-reduced still is of a gradient that is
scattered over the first. No field need be set.

{markdown(["config", "axes", "needs GiB", *HEADS[8:13]], layouts)}"""
    (ROOT / "results" / "model_plans.md").write_text(text)


if __name__ == "__main__":
    main()
