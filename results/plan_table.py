# SPDX-License-Identifier: Apache-2.0
"""The training step on TPU slices that are not here: memory, collectives, bounds.

Compiles the real step of configs/plan.py for each slice; nothing runs on a TPU.

    python results/plan_table.py

writes results/plan_table.md. About 25 minutes on 2 CPU cores; slices that are
finished in --workdir are not compiled again. Needs the extra `plan`.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from tables import line, markdown, versions

HERE = pathlib.Path(__file__).parent
GIB = 2**30
T4096 = ("surgery.data.context=4096",)
# name, topology, further flags, whether to compile to the end
CASES = [
    ("llama2_7b", "v5e:4x4", (), True),
    ("llama2_7b", "v5e:4x4", ("surgery.optimizer.moment_dtype=bfloat16",), False),
    ("llama2_7b", "v5e:4x4", ("surgery.optimizer.name=adafactor",), False),
    ("llama2_7b", "v5e:4x4", ("surgery.lora.rank=16",), True),
    ("llama2_7b", "v5e:4x4", T4096, True),
    ("llama2_7b", "v5e:4x4", ("surgery.mesh.tp=4",), True),
    ("llama2_7b", "v5e:4x4", ("num_slices=2",), True),
    ("llama2_7b", "v5e:2x4", (), False),
    ("llama2_7b", "v4:2x2x2", (), True),
    ("llama2_7b", "v5p:2x2x2", (), True),
    ("llama2_7b", "v6e:4x4", (), True),
    ("llama2_13b", "v5e:4x8", (), False),
    ("llama3.1_8b", "v5e:4x4", (), False),
    ("llama3.2_1b", "v5e:2x2", (), False),
    ("qwen2.5_7b", "v5e:4x4", (), False),
    ("qwen3_8b", "v5e:4x4", (), False),
    ("gemma2_9b", "v5p:2x2x2", (), False),
    ("gemma3_1b", "v5e:2x2", (), False),
    ("gemma3_27b", "v5p:4x4x4", (), False),
    ("llama2_70b", "v5p:4x4x4", T4096, False),
    ("llama2_70b", "v6e:8x8", (), False),
]


def results_of(
    folder: pathlib.Path, fields: list[str], whole: bool, base: str = ""
) -> dict:
    """results.json of configs/plan.py with some fields, made if it is not there.

    Args:
      folder: the run's workdir.
      fields: NAME=VALUE each.
      whole: whether to compile to the end; else memory alone is asked.
      base: the config whose step it is, as configs/plan.py takes it.
    """
    if not (folder / "finished.json").exists():
        command = [sys.executable, "-m", "jax_surgery.main"]
        config = f"configs/plan.py{base and ':'}{base}"
        command += [f"--config={config}", f"--workdir={folder}"]
        command += [f"--config.{field}" for field in fields]
        command += [] if whole else ["--config.fast=True"]
        subprocess.run(command, cwd=HERE.parent, check=True)
    return json.loads((folder / "results.json").read_text())


def plan(case, workdir: pathlib.Path) -> dict:
    """results.json of one case, made if it is not there."""
    model, topology, flags, whole = case
    name = "_".join([model, topology.replace(":", "-"), *flags])
    folder = workdir / name.replace("/", "-")
    fields = [f"model={model}", f"topology={topology}", "neighbours=no", *flags]
    return results_of(folder, fields, whole)


def row(case, found: dict) -> list[str]:
    """A line of the table."""
    model, topology, flags, _ = case
    what = ", ".join(flag.removeprefix("surgery.") for flag in flags)
    cells = [model, topology, what, f"{found['chips']}"]
    cells += [f"{found['needs'] / GIB:.2f}", f"{found['has'] / GIB:.2f}"]
    cells.append("yes" if found["fits"] else "**no**")
    sizes = found.get("collectives", {})
    known = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")
    cells += [f"{sizes.get(kind, 0) / 1e9:.1f}" for kind in known]
    cells.append(f"{sum(v for k, v in sizes.items() if k not in known) / 1e9:.1f}")
    cells.append(str(sum(found["kernel_calls"].values()) if found["fits"] else ""))
    if speed := found.get("speed"):
        unsure = "" if speed["clock_is_certain"] else " ?"
        cells += [
            f"{speed['seconds_at_least']:.2f}{unsure}",
            f"{speed['ideal_seconds']:.2f}",
            f"{speed['mfu_at_most']:.0%}{unsure}",
            f"{found['compile_seconds']:.0f}",
        ]
    else:
        cells += [""] * 4
    return cells


def main() -> None:
    """Compiles all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="runs/plan_table")
    arguments = parser.parse_args()
    heads = ["model", "slice", "changed", "chips", "needs GiB", "has", "fits"]
    heads += ["all-gather GB", "reduce-scatter", "all-reduce", "permute", "other"]
    heads += ["attention kernels", "bound s", "ideal s", "MFU at most", "compile s"]
    rows = []
    for case in CASES:
        rows.append(row(case, plan(case, pathlib.Path(arguments.workdir).absolute())))
        print(line(rows[-1]), flush=True)
    text = f"""# The training step on TPU slices, compiled and not run

`python results/plan_table.py` with {versions("jax", "libtpu")}, on 2 CPU cores. One row of each of the
three roles per chip, 2048 tokens per row, float32 master weights and AdamW moments, bfloat16
products, full remat, cached reference, unless "changed" says otherwise.

*needs* is what the compiler assigns on each chip, of what it lets a program use (*has*).
Collectives are bytes of the tensors on each chip per step; a gradient's reduce-scatter
overlapped with its product appears as collective-permutes. *bound* is a static lower
bound of the step time: cycles that the compiler schedules, without waiting for other
chips and without attention kernels; *ideal* is the model's operations (6 a weight and
token, causal attention) at the chips' peak. A "?" marks chips whose clock is a guess.
*attention kernels* are calls of the Pallas kernel (splash) in the compiled step.
*compile s* is on the clock, beside whatever else the machine was doing.

"""
    (HERE / "plan_table.md").write_text(text + markdown(heads, rows))


if __name__ == "__main__":
    main()
