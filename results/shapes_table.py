# SPDX-License-Identifier: Apache-2.0
"""The automatic mode on models of other shapes, in other worlds.

    python results/shapes_table.py --workdir=runs/shapes_table [--shapes=1,6,7]

draws shapes (layers, width, heads that share keys and values, a head tied to the embedding
or not), pretrains a model of each on a world of the embedded grammar that nothing was
chosen on (another seed, so other people with other facts; 200 people to retain), runs
configs/automatic.py on it with no field changed but the model, and writes
results/shapes_table.md: four-option accuracy in %, chance 25. Finished runs are not
repeated.

Hardware: 2 CPU cores. Pretraining one shape took 48 minutes beside other runs; the whole has
not been run yet.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

from automatic_table import ASKED, numbers
from paper_table import run_once
from tables import markdown, on_this_machine, settings_of

from jax_surgery.benchmarks.embedded import world
from jax_surgery.runs import pretrain, surgery

HERE = pathlib.Path(__file__).parent
RETAINED = 200  # people, of a world
MOST = 5_000_000  # parameters beside the embedding: larger ones take hours here
LEAST = 800_000
EPOCHS = 6.0
HEAD = 32  # numbers


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of a model, of which `width` is the hidden size."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Of the layers."""
        kv = self.width * self.kv_heads * (self.width // self.heads)
        return self.layers * (2 * self.width**2 + 2 * kv + 3 * self.width * self.inner)

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return 3 * self.width

    def __str__(self) -> str:
        tied = "tied" if self.tied else "untied"
        return (
            f"{self.layers} layers, {self.width} wide, {self.heads} heads of "
            f"{self.kv_heads} keys, {tied}, {self.parameters / 1e6:.1f} M"
        )


def shape(number: int) -> Shape:
    """A shape of 4 to 30 layers, 64 to 576 wide, of a size that can be trained here."""
    rng = random.Random(f"shape {number}")
    while True:
        kv_heads, of_each = rng.randint(1, 4), rng.choice((1, 2, 3, 4))
        heads = kv_heads * of_each
        width = heads * HEAD
        found = Shape(rng.randint(4, 30), width, heads, kv_heads, rng.random() < 0.5)
        if 64 <= width <= 576 and LEAST <= found.parameters <= MOST:
            return found


def run_here(number: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Pretrains a shape in a world of its own, and runs the automatic mode on it; in a
    process of its own, since it changes the world."""
    changed = {"SEED": world.SEED + 1 + number, "NUM_RETAINED": RETAINED}
    vars(world).update(changed)
    of = shape(number)
    fields = {
        "new_model.hidden_size": of.width,
        "new_model.intermediate_size": of.inner,
        "new_model.num_layers": of.layers,
        "new_model.num_heads": of.heads,
        "new_model.num_kv_heads": of.kv_heads,
        "new_model.tie_embeddings": of.tied,
        "data.epochs": EPOCHS,
        "optimizer.name": "muon",  # learns a world in fewer steps than AdamW
        "optimizer.learning_rate": 5e-3,
        "optimizer.momentum": 0.95,
        "seed": number,
    }
    learned = settings_of("pretrain", **fields)
    place = str(workdir / "pretrain")
    model = run_once(workdir / "model", lambda _: pretrain.run(learned, place))
    wanted = {"model": model["directory"], "data.questions": "embedded"}
    results = surgery.run(settings_of("automatic", **wanted), str(workdir / "run"))
    return {"shape": str(of)} | numbers(results)


def table(entries: dict[int, dict[str, Any]]) -> str:
    """The table as Markdown."""
    heads = ["%", *(entry["shape"] for entry in entries.values()), "asked for"]
    rows = []
    for group, asked in ASKED.items():
        cells = [
            f"{entry['before'][group]:.1f} -> {entry['after'][group]:.1f}"
            for entry in entries.values()
        ]
        rows.append(
            [group, *cells, asked.replace("± 5", "± 7").replace("1 of", "1.5 of")]
        )
    for key in ("kl", "step", "steps", "optimizer"):
        show = "{:.4f}" if key == "kl" else "{}"
        rows.append([key, *(show.format(e[key]) for e in entries.values()), ""])
    return markdown(heads, rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--shapes", default="1,6,7")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    numbers_of = [int(number) for number in arguments.shapes.split(",")]
    of = lambda number: workdir / f"shape-{number}"
    if arguments.here:
        for number in numbers_of:
            run_once(
                of(number), lambda place, n=number: run_here(n, pathlib.Path(place))
            )
        return
    for number in numbers_of:
        command = [sys.executable, __file__, f"--workdir={workdir}", "--here"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*command, f"--shapes={number}"], check=True, env=environment)
    entries = {n: run_once(of(n), lambda _: {}) for n in numbers_of}
    text = (
        f"# The automatic mode on other shapes\n\n{__doc__ or ''}\n"
        f"{table(entries)}\n{on_this_machine()}.\n"
    )
    (HERE / "shapes_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
