# SPDX-License-Identifier: Apache-2.0
"""Time to compile the three-term step against the model's depth.

Layers are scanned, so the program of 80 layers should be that of 8. Each compilation
has a process of its own; depths take turns, and CPU seconds of all threads are counted
(tracing and lowering included), which other work on the machine changes less than
seconds on the clock.

    python results/compile_time.py [--before=CHECKOUT]

writes results/compile_time.md. About 15 minutes on 2 CPU cores, and twice as long with
another checkout of this repository, which takes turns with this one. The TPU rows need
the extra `plan`.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time

import checkouts
import processor
import tables

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

    asked = tables.settings_of("plan", model=model)
    config = lowering.architecture_of(model)
    config = dataclasses.replace(config, num_layers=layers)
    if topology:
        topologies.prepare()
        asked = dataclasses.replace(asked, topology=topology)
        mesh = lowering.mesh_of(asked)
    else:
        run = dataclasses.replace(
            asked.surgery, compute=tables.settings_of("surgery").compute
        )
        asked = dataclasses.replace(asked, surgery=run)
        mesh = meshes.make_mesh(run.mesh, jax.devices())
    return lowering.lower("step", asked, config, mesh)


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


def apart(file: pathlib.Path, name: str, layers: int) -> dict[str, float]:
    """`measure` by a checkout's script, in a process of its own."""
    command = [sys.executable, str(file), "--measure", name, "--layers", str(layers)]
    environment = checkouts.environment(file)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


Found = dict[int, list[dict[str, float]]]  # of each round, by the number of layers


def seconds(found: Found, layers: int) -> list[float]:
    """Of lowering and compiling, in each round."""
    return [f["lower"] + f["compile"] for f in found[layers]]


def ratio(ours: list[float], others: list[float]) -> str:
    """The median of the rounds' ratios."""
    return f"{statistics.median(a / b for a, b in zip(ours, others, strict=True)):.2f}"


def row(name: str, found: Found, before: Found) -> list[str]:
    """A row of the table: medians, and the median of the rounds' ratios.

    Args:
      before: of another checkout, or {}.
    """
    cells = [name]
    for layers in DEPTHS:
        for what in ("lower", "compile"):
            cells.append(f"{statistics.median(f[what] for f in found[layers]):.1f}")
    first, last = (seconds(found, layers) for layers in DEPTHS)
    cells.append(ratio(last, first))
    if before:
        pairs = [(seconds(found, n), seconds(before, n)) for n in DEPTHS]
        cells += [ratio(*pair) for pair in pairs]
    return cells


def main() -> None:
    """Measures every target and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--before", default="", help="another checkout, measured too")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.layers)))
        return
    heads = ["step"]
    heads += [f"{n} layers: {what}" for n in DEPTHS for what in ("lower", "compile")]
    heads.append(f"{DEPTHS[1]} / {DEPTHS[0]} layers")
    scripts = {"now": pathlib.Path(__file__).resolve()}
    if arguments.before:
        scripts["before"] = checkouts.script(arguments.before, "compile_time.py")
        heads += [f"{n} layers: now / before" for n in DEPTHS]
    rows, rates = [], []
    for name in TARGETS:
        found = {which: {layers: [] for layers in DEPTHS} for which in scripts}
        for _ in range(arguments.rounds):
            for layers in DEPTHS:
                for which, file in scripts.items():
                    found[which][layers].append(apart(file, name, layers))
                    print(which, name, layers, found[which][layers][-1], flush=True)
            rates.append(processor.measured())
        rows.append(row(name, found["now"], found.get("before", {})))
        print(tables.line(rows[-1]), flush=True)
    command, before = "python results/compile_time.py", ""
    if arguments.before:
        command += " --before=CHECKOUT"
        before = (
            f" *before* is commit {checkouts.commit(arguments.before)}, in turn with "
        )
        before += "this one."
    text = f"""# Compile time of the three-term step against depth

`{command}` with {tables.versions("jax", "libtpu")}. {processor.sentence(rates)}

CPU seconds of all threads, medians of {arguments.rounds} rounds in which the depths take
turns; ratios are medians of the rounds', of both together.{before} For TPUs and GPUs a scan
step is one layer. On CPU it is eight, which run a few percent faster: a model of eight
layers has no loop, deeper ones have the same program whatever their depth.

"""
    (HERE / "compile_time.md").write_text(text + tables.markdown(heads, rows))


if __name__ == "__main__":
    main()
