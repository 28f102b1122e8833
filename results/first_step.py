# SPDX-License-Identifier: Apache-2.0
"""What the first step of the automatic mode gains for the KL that it costs, by direction.

    python results/first_step.py --model=DIR --workdir=runs/first_step

takes set a of results/real_table.py, the facts that settings are chosen on. Along each
direction the model is moved so far that held-out text moves by about the same KL, and
what is left to forget and to learn there is measured. As long as a step is small, its
gain p and the square of its length go with the KL: p^2 / KL, with p the fall of the loss
by its gradient, compares directions by one number. Moments of outputs are of all of the
text that those of inputs are of, where a run reads half of it. Writes results/first_step.md.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import real_table
from tables import markdown, on_this_machine, settings_of

from jax_surgery.data import roles
from jax_surgery.data.stream import one_pass
from jax_surgery.methods import descent
from jax_surgery.methods.automatic import layer_steps
from jax_surgery.methods.automatic import run as automatic
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.precondition import directions, output_moments, ridge
from jax_surgery.optim.precondition.moments import second_moments

HERE = pathlib.Path(__file__).parent
KL = 1.5e-3  # nats per token that a direction is to cost, within a factor of two
TRIES = 5  # of a length
ROWS = 4
RIDGES = (1.0, 0.1, 0.01, 0.001)  # of the moments of outputs
Directions = dict[str, Matrices]


class Measured:
    """Moves a model along directions, and measures it there."""

    def __init__(self, params: Any, trainable: Trainable, held: Any, ends: Any):
        self.params, self.held, self.ends = params, held, ends
        self.gradients = ends.gradients(params)
        self.norm = float(optax.tree.norm(trainable.take(params)))
        self._moved = jax.jit(
            lambda params, part, unit: trainable.moved(
                params, trainable.put({k: -unit * m for k, m in part.items()}, params)
            )
        )

    def kl(self, params: Any) -> float:
        """Of the kind of held-out text that moved furthest."""
        return self.held.kl_of_part(params)

    def row(self, name: str, direction: Matrices) -> list[str]:
        """A row of the table."""
        norm = float(optax.tree.norm(direction))
        gain = sum(float(jnp.vdot(direction[k], self.gradients[k])) for k in direction)
        unit, moved, cost = 2e-3 * self.norm / norm, self.params, 0.0
        for _ in range(TRIES):
            moved = self._moved(self.params, direction, unit)
            cost = max(self.kl(moved), 1e-9)
            if KL / 2 < cost < KL * 2:
                break
            unit *= min(max((KL / cost) ** 0.5, 0.05), 20.0)
        forget, update = self.ends.measure(moved)
        merit = (gain * unit) ** 2 / cost
        cells = [f"{merit:,.0f}", f"{cost:.5f}", f"{forget:.2f}", f"{update:.2f}"]
        print(name, *cells, flush=True)
        return [name, *cells]


def along(
    gradients: Matrices, factors: dict[str, tuple[str, ridge.Factors]]
) -> Directions:
    """Directions by name: those of `precondition.directions` under their factors."""
    of: dict[str, Callable[..., Matrices]] = directions.DIRECTIONS
    return {
        name: jax.jit(of[kind])(gradients, own) for name, (kind, own) in factors.items()
    }


def table(model_path: str, workdir: pathlib.Path) -> str:
    """The table as Markdown."""
    model = real_table.load(model_path)
    known = real_table.known(model, workdir)
    job = real_table.job(known, real_table.sets(known)["a"])
    settings = settings_of(
        "automatic", model=model_path, **real_table.write_files(job, workdir)
    )
    read = settings.statistics.sources
    records = roles.read(settings.data, read, settings.readers_of_retained)
    begun = automatic.begin(model, records, settings, str(workdir))
    held, ends = automatic.measures(model, begun, settings)
    trainable, params = settings.trainable(model.config), model.params
    at = Measured(params, trainable, held, ends)

    text = begun.texts.retained
    assert text, "the model has written some"

    def batches(title: str):
        rows = text.pack(settings.seed, descent.statistics_rows(text, settings))
        return (batch.for_devices() for batch in one_pass(rows, ROWS, title))

    how = (settings.compute, trainable)
    inputs = second_moments(params, model.config, batches("inputs"), *how)
    outputs = output_moments.second_moments(
        params, model.config, batches("outputs"), *how, settings.seed
    )
    size, scale = settings.statistics.ridge, settings.statistics.scale
    own = ridge.raised(inputs, size, "ridge", scale)
    factors = {
        "natural, ridge by the mean": ("natural", ridge.raised(inputs, size, "ridge")),
        "natural, ridge by inputs": ("natural", own),
    }
    for of_outputs in RIDGES:
        both = own._replace(outputs=ridge.of_outputs(outputs, inputs, of_outputs))
        factors[f"kfac, ridge of outputs {of_outputs:g}"] = ("kfac", both)
    found = [at.row("gradient", at.gradients)]
    found += [at.row(*one) for one in along(at.gradients, factors).items()]
    chosen = {
        "natural, ridge by inputs": "natural",
        f"kfac, ridge of outputs {descent.OUTPUT_RIDGE:g}": "kfac",
    }
    for name, kind in chosen.items():
        of = (params, at.gradients, factors[name][1], trainable, at.kl, at.kl)
        scaled = layer_steps.measured(*of, settings.retain.budget, kind).factors
        title = f"{name}, layers by p / k"
        [(_, direction)] = along(at.gradients, {title: (kind, scaled)}).items()
        found.append(at.row(title, direction))
    forget, update = ends.measure(params)
    start = ["before", "", "0", f"{forget:.2f}", f"{update:.2f}"]
    heads = ["direction", "p² / KL", "KL", "left to forget, nats", "update, nats"]
    return markdown(heads, [start, *found])


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workdir", required=True)
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    text = (
        f"# The first step of the automatic mode\n\n{(__doc__ or '').split('Writes')[0].rstrip()}"
        f"\n\n{table(arguments.model, workdir)}\n{on_this_machine()}.\n"
    )
    (HERE / "first_step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
