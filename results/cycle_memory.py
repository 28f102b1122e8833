# SPDX-License-Identifier: Apache-2.0
"""Peak memory of whole surgeries of a model of half a billion parameters.

    python results/cycle_memory.py

writes a random Llama (bfloat16, one file) and, in a fresh process for one device and for
eight simulated ones, runs the command of README.md on it: load, probes, statistics, two
steps of the default method with a live reference, export, probes, report. It prints and
writes results/cycle_memory.md; with 8 GiB of memory, and 4 GB of disk in --folder.

What is measured is the process' largest resident memory in each part (VmHWM, reset
before it): a CPU device's memory is the host's, and Python, JAX, compiled programs and the
compiler are in it. The arithmetic is the parameters in float32 and the frozen copy that
the loss compares with. On several devices each also gathers what it computes with: one
layer, and the output heads of model and frozen model. The table says whether the peak is
at most 1.3 times that.
"""

import argparse
import contextlib
import gc
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from results import load_save

GIB = 2**30
AIM = 1.3  # times the arithmetic, at most
ROLES = {"unlearn": "obsolete", "update": "update", "retain": "retain"}
FIELDS = {
    "data.questions": "",
    "data.surprise": 0.0,
    "data.context": 64,
    "steps": 2,
    "statistics.ridge": 1e-2,  # few tokens are read for them
    "loop.evaluate_every": 0,
}
PARTS = ("load", "probe", "examples", "change", "export")


def needs(config, devices: int) -> dict[str, float]:
    """GiB, from shapes: the parameters in float32 and their frozen copy; and what the
    devices gather beside them."""
    import jax

    from jax_surgery.models import decoder, output_head

    def size(tree) -> float:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / GIB

    params = decoder.abstract_params(config)
    layer = size(params["layers"]) / config.num_layers
    gathered = layer + 2 * size(output_head.parameters(params))
    return {
        "parameters": size(params),
        "arithmetic": 2 * size(params),
        "gathered": devices * gathered if devices > 1 else 0.0,
    }


def write(folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    """The model, with the tokenizer of the embedded one, and a few texts of each role."""
    from jax_surgery.benchmarks import embedded
    from jax_surgery.checkpoints import hf_weights

    config = load_save.model_config(arguments)
    load_save.write_checkpoint(folder / "model", config, 5 * 10**9)
    tokenizer = hf_weights.load_tokenizer(str(embedded.MODEL))
    hf_weights.save_tokenizer(tokenizer, str(folder / "model"))
    for role, name in ROLES.items():
        lines = [json.dumps(record) for record in embedded.load(name)[:4]]
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def measured(name: str):
    """Prints the largest resident memory of what is inside, GiB."""
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    began = time.perf_counter()
    yield
    row = {
        "part": name,
        "peak": load_save.status("VmHWM"),
        "after": load_save.status("VmRSS"),
        "seconds": time.perf_counter() - began,
    }
    print(f"\nMEASURED {json.dumps(row)}", flush=True)


def child(command: list[str]) -> None:
    """The command's run in this process, its parts measured."""
    from absl import app

    from jax_surgery import command_line, main
    from jax_surgery.runs import surgery

    def part(name: str):
        own = getattr(surgery.ByRoles, name)

        def run(self, *arguments):
            with measured(name):
                return own(self, *arguments)

        return run

    methods = {name: part(name) for name in PARTS}
    surgery.ByRoles = type("Measured", (surgery.ByRoles,), methods)
    sys.argv = ["main", *command]
    app.run(main.main, flags_parser=command_line.parse_flags)


def run(folder: pathlib.Path, devices: int) -> list[dict]:
    """What each part of a surgery on so many devices took, in a fresh process."""
    fields = FIELDS | {"model": folder / "model"}
    for role in ROLES:
        fields |= {f"data.{role}": folder / f"{role}.jsonl", f"data.rows_{role}": 1}
    command = [f"--config.{name}={value}" for name, value in fields.items()]
    config = HERE.parent / "configs" / "surgery.py"
    workdir = folder / f"run{devices}"
    command = [f"--config={config}", f"--workdir={workdir}", *command]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "PYTHONPATH": str(HERE.parent),
    }
    program = [sys.executable, __file__, "--child", *command]
    done = subprocess.run(
        program, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return [json.loads(row) for row in re.findall(r"MEASURED (.*)", done.stdout)]


def page(arguments: argparse.Namespace, found: dict[int, list[dict]]) -> str:
    """The Markdown page of a measurement."""
    import jax

    from jax_surgery.models import decoder

    config = load_save.model_config(arguments)
    count = decoder.parameter_count(config)
    lines = [
        "# Memory of a whole surgery",
        "",
        (
            f"A random Llama of {count / 1e9:.2f} billion parameters ({arguments.layers} "
            f"layers of width {arguments.width}, vocabulary {arguments.vocabulary}) in "
            "bfloat16 files; the default method, 3 rows of 64 tokens, a live reference. "
            "Peak: the process' largest resident memory, with Python, JAX, compiled "
            "programs and the compiler. Eight devices are simulated: their memory is the "
            "same host's. Arithmetic: the parameters in float32 and their frozen copy; "
            "on eight devices also one layer and the heads of model and frozen model on "
            "each."
        ),
        "",
        "| devices | part | peak GiB | left after it | seconds |",
        "|---|---|---|---|---|",
    ]
    for devices, rows in found.items():
        for row in rows:
            lines.append(
                f"| {devices} | {row['part']} | {row['peak']:.2f} | {row['after']:.2f} "
                f"| {row['seconds']:.0f} |"
            )
    lines += [
        "",
        (
            "| devices | peak GiB | parameters and frozen copy | with what devices gather "
            f"| peak / arithmetic | at most {AIM} |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for devices, rows in found.items():
        need, peak = needs(config, devices), max(row["peak"] for row in rows)
        whole = need["arithmetic"] + need["gathered"]
        lines.append(
            f"| {devices} | {peak:.2f} | {need['arithmetic']:.2f} | {whole:.2f} | "
            f"{peak / whole:.2f} | {'yes' if peak <= AIM * whole else 'no'} |"
        )
    lines += [
        "",
        (
            f"Command: `python {shlex.join(['results/cycle_memory.py', *sys.argv[1:]])}`; "
            f"{os.cpu_count()} CPU cores, {platform.platform()}, Python "
            f"{platform.python_version()}, jax {jax.__version__}."
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--devices", default="1,8")
    parser.add_argument("--folder", help="for 4 GB of files; default: a temporary one")
    parser.add_argument("--out", default=str(HERE / "cycle_memory.md"))
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        folder = pathlib.Path(folder)
        write(folder, arguments)
        found = {int(n): run(folder, int(n)) for n in arguments.devices.split(",")}
    text = page(arguments, found)
    print(text)
    pathlib.Path(arguments.out).write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
