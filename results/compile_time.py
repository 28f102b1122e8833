# SPDX-License-Identifier: Apache-2.0
"""Time to compile the three-term step against the model's depth.

Layers are scanned, so the program of 80 layers should be that of 8. Each compilation
has a process of its own; depths take turns, and CPU seconds of all threads are counted
(tracing and lowering included), which other work on the machine changes less than
seconds on the clock.

    python results/compile_time.py

writes results/compile_time.md. About 15 minutes on 2 CPU cores. The TPU rows need
the extra `plan`.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
DEPTHS = (8, 80)
TARGETS = {
    "llama2_7b's width on v5p:2x2x4": ("llama2_7b", "v5p:2x2x4"),
    "llama3.2_1b's width on this CPU": ("llama3.2_1b", ""),
}


def lowered(model: str, topology: str, layers: int):
    """The step of configs/plan.py, lowered for a slice, or in float32 for this CPU."""
    import jax

    from jax_surgery.parallel import mesh as meshes
    from jax_surgery.plan import lowering, topologies

    asked = dataclasses.replace(plan_settings(), model=model)
    config = lowering.architecture_of(model)
    config = dataclasses.replace(config, num_layers=layers)
    if topology:
        topologies.prepare()
        asked = dataclasses.replace(asked, topology=topology)
        mesh = lowering.mesh_of(asked)
    else:
        run = dataclasses.replace(asked.surgery, compute=surgery_settings().compute)
        asked = dataclasses.replace(asked, surgery=run)
        mesh = meshes.make_mesh(run.mesh, jax.devices())
    return lowering.lower("step", asked, config, mesh)


def surgery_settings():
    """Those of configs/surgery.py."""
    from configs import surgery
    from jax_surgery.runs import settings

    return settings.from_config(surgery.get_config())


def plan_settings():
    """Those of configs/plan.py."""
    from configs import plan
    from jax_surgery.runs import settings

    return settings.from_config(plan.get_config())


def measure(name: str, layers: int) -> dict[str, float]:
    """CPU seconds of lowering and compiling, in this process."""
    model, topology = TARGETS[name]
    began, lowering_began = time.perf_counter(), time.process_time()
    step = lowered(model, topology, layers)
    compiling_began = time.process_time()
    step.compile()
    ended = time.process_time()
    return {
        "lower": compiling_began - lowering_began,
        "compile": ended - compiling_began,
        "clock": time.perf_counter() - began,
    }


def apart(name: str, layers: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--layers", str(layers)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(HERE.parent),
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def line(name: str, found: dict[int, list[dict[str, float]]]) -> str:
    """A line of the table: medians, and the median of the rounds' ratios."""
    cells = [name]
    for layers in DEPTHS:
        for what in ("lower", "compile"):
            cells.append(f"{statistics.median(f[what] for f in found[layers]):.1f}")
    first, last = (
        [f["lower"] + f["compile"] for f in found[layers]] for layers in DEPTHS
    )
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    cells.append(f"{statistics.median(ratios):.2f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measures every target and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.layers)))
        return
    heads = ["step"]
    heads += [f"{n} layers: {what}" for n in DEPTHS for what in ("lower", "compile")]
    heads.append(f"{DEPTHS[1]} / {DEPTHS[0]} layers")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in TARGETS:
        found = {layers: [] for layers in DEPTHS}
        for _ in range(arguments.rounds):
            for layers in DEPTHS:
                found[layers].append(apart(name, layers))
                print(name, layers, found[layers][-1], flush=True)
        lines.append(line(name, found))
        print(lines[-1], flush=True)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")
    )
    text = f"""# Compile time of the three-term step against depth

`python results/compile_time.py` with {versions}, on 2 CPU cores. CPU seconds of all
threads, medians of {arguments.rounds} rounds in which the depths take turns; the last
column is the median of the rounds' ratios of both together. For TPUs and GPUs a scan
step is one layer. On CPU it is eight, which run a few percent faster: a model of eight
layers has no loop, deeper ones have the same program whatever their depth.

"""
    (HERE / "compile_time.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
