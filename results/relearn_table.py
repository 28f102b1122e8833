# SPDX-License-Identifier: Apache-2.0
"""What half of a removed task's items bring back of the other half.

python results/relearn_table.py --workdir=DIR [--modes=...] [--tasks=...]
writes results/relearn_table.md and .png.

Hardware: 2 CPU cores, 3 GiB; about an hour.
A task is removed in many ways; then every parameter of the model is trained (Adam) on
one half of the task's items, and the accuracy on the other half is read along the way.
What counts is how far it lies above that of a model that never knew the task. Cases
that are finished in the workdir are not run again; the two models that never knew are
pretrained first (3 minutes each).
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from subspace_cases import (
    ONE_SHOT,
    ROOT,
    Cases,
    Done,
    model_of,
    run_case,
    summary,
)
from subspace_tables import relearn_page
from tables import settings_of

from jax_surgery.attacks import Budget, Target
from jax_surgery.attacks.relearning import Relearning
from jax_surgery.benchmarks import suite
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.methods.subspace import changes
from jax_surgery.methods.subspace.knowledge import finder
from jax_surgery.methods.subspace.stage_rounds import mend
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics import answer_accuracy
from jax_surgery.models.trainable import BLOCK_OF
from jax_surgery.optim.linalg.svd import svd
from jax_surgery.optim.precondition import discriminate
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs import by_tasks, surgery
from jax_surgery.train import devices

# Two models that never knew half of the tasks each.
NEVER = (
    ("sub", "reverse", "dict_b", "people_b", "river", "smaller", "previous"),
    ("add", "sort", "dict_a", "people_a", "capital", "larger", "next"),
)
TRIED = ("people_a", "add")  # facts and a rule, with every mode
OTHERS = ("dict_a", "reverse")  # with the modes in REPORTED
RESERVED = ("capital", "next")  # with them too
STEPS = (5, 10, 20, 80)
RATES = (3e-4, 1e-3)

COPIES = {"method": "subspace:harden=6"}
OVERWRITE = {"method": "subspace:overwrite=1", "rounds.step": 0.01}
PLAIN = {
    "rounds": {},
    "rounds, nothing discriminated": {"method": "subspace:discriminate=none,guard=0"},
    "one shot, ridge": ONE_SHOT,
    "LoRA": {
        "lora.rank": 8,
        "optimizer.learning_rate": 1e-3,
        "rounds.number": 300,
    },
    "overwritten": OVERWRITE,
    "copies": COPIES,
    "copies, their own statistics": {
        "method": "subspace:harden=6,harden_statistics=copy"
    },
    "copies, steps of 1e-3": {"method": "subspace:harden=6,harden_rate=1e-3"},
    "copies, overwritten": OVERWRITE | {"method": "subspace:harden=6,overwrite=1"},
}
REPORTED = ("never knew", "rounds", "overwritten", "copies", "copies, overwritten")
DRAWN = {
    "rounds": ("#c44e52", "o-"),
    "overwritten": ("#dd8452", "s-"),
    "copies": ("#4c72b0", "^-"),
    "copies, overwritten": ("#55a868", "D-"),
    "never knew": ("#555555", "x--"),
}


def attack(work: Work, params, task: str, rate: float, steps=STEPS):
    """Trains on a task's first half.

    Returns:
      (accuracy on the second half before and after `steps`, the parameters).
    """
    context = work.how.tasks.context
    read = lambda split: tuple(records.read_source(f"suite:{task}:{split}"))
    probe = Probe(task, context, records=read("second"), ends=False)
    target = Target(read("first"), (probe,), context)
    found = []

    def watch(spent: Budget, model, **_) -> None:
        if spent.steps in (0, *steps):
            found.append(answer_accuracy.METRIC(model, probe).value)

    adversary = Relearning(rate, max(steps))
    attacked = adversary(work.model.with_params(params), target, Budget(), 0, watch)
    return found, attacked.model.params


def where_it_moves(task: str, model: str, workdir: pathlib.Path) -> Done:
    """Copies, and rounds that move the matrices alone that relearning moves most.

    Of each kind of matrix the share of its own norm; the larger half of the kinds.
    """
    done = run_case("unlearn", task, model)
    _, after = attack(done.work, done.params, task, RATES[0], (20,))
    moving = done.work.trainable
    base = moving.take(done.params)
    change = changes.change_of(after, base, moving)
    share = {
        name: float(optax.tree.norm(change[name]) / optax.tree.norm(base[name]))
        for name in BLOCK_OF
    }
    chosen = sorted(share, key=share.__getitem__)[len(share) // 2 :]
    fields = COPIES | {"rounds.matrices": ",".join(chosen)}
    print(task, {name: round(value, 4) for name, value in share.items()})
    return run_case("unlearn", task, model, **fields)


def _mended(done: Done, params) -> Done:
    """A case after passes that mend other parameters."""
    with (
        devices.on_mesh(MeshShape()),
        tempfile.TemporaryDirectory() as folder,
    ):
        stage = dataclasses.replace(done.last, directory=folder)
        params = mend(stage, params)
    after = done.work.scores(params)
    return dataclasses.replace(done, params=params, after=after)


def both_sides(task: str, model: str, workdir: pathlib.Path) -> Done:
    """Rounds, and W's own part between the change's inputs and its outputs taken out.

    W - R(U U^T W V V^T) with the first 8 singular vectors U, V of what rounds have
    changed, and R = (I + A / (tau lambda))^-1 of the retained tasks' ridge.
    """
    done = run_case("unlearn", task, model)
    work = done.work
    ridge = work.how.subspace.ridge
    moving = work.trainable
    weights = moving.take(done.params)
    before = moving.take(work.model.params)
    change = changes.change_of(done.params, before, moving)
    between = {}
    for name, matrix in change.items():
        found = svd(matrix, 8)
        both = found.u_LXK, found.v_LYK
        inner = jnp.einsum("LXK,LXY,LYJ->LKJ", both[0], weights[name], both[1])
        between[name] = jnp.einsum("LXK,LKJ,LYJ->LXY", both[0], inner, both[1])
    with devices.on_mesh(MeshShape()):
        knowledge = finder(done.last)(done.params)
        task_part = discriminate.discriminate(between, knowledge)
        params = changes.added(done.params, task_part, -ridge, moving)
    return _mended(done, params)


def three_terms(task: str, model: str, workdir: pathlib.Path) -> Done:
    """Rounds, then LLM Surgery's three terms in all layers: other texts' answers are
    the update, all other tasks what is retained."""
    done = run_case("unlearn", task, model)
    rows = suite.load(task)
    others = [row | {"answer": rows[i - 7]["answer"]} for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        update = folder / "update.jsonl"
        update.write_text("".join(json.dumps(row) + "\n" for row in others))
        hf_weights.save_model(
            *(done.params, done.work.model.config, str(folder / "removed")),
            tokenizer_source=model,
        )
        fields = {
            "model": str(folder / "removed"),
            "data.unlearn": f"suite:{task}",
            "data.update": str(update),
            "data.retain": f"suite:without:{task}",
            "data.rows_retain": 4,
            "data.context": 128,
            "data.questions": "",
            "optimizer.first_layer": 0,
            "optimizer.matrices": ",".join(BLOCK_OF),
            "optimizer.learning_rate": 0.03,
            "loop.evaluate_every": 0,
            "loop.checkpoint_every": 0,
        }
        surgery.run(settings_of("surgery", **fields), str(folder / "run"))
        after = devices.load_model(str(folder / "run" / "model"))
    return _mended(done, after.params)


def plain(fields: dict[str, Any]) -> Callable[[str, str, pathlib.Path], Done]:
    """A removal with some fields of the config changed."""
    return lambda task, model, workdir: run_case("unlearn", task, model, **fields)


MADE = {name: plain(fields) for name, fields in PLAIN.items()} | {
    "copies, the matrices that relearning moves most": where_it_moves,
    "both sides": both_sides,
    "then three terms": three_terms,
}


def run_mode(mode: str, task: str, workdir: pathlib.Path) -> dict:
    """What a mode removes and costs, and what comes back at each rate."""
    if mode == "never knew":
        without = next(names for names in NEVER if task in names)
        settings = settings_of("unlearn", model=model_of(workdir, 0, without))
        case = by_tasks.ByTasks(settings)
        with devices.on_mesh(settings.mesh):
            params, found = case.load().params, {}
        work = case.work
    else:
        done = MADE[mode](task, model_of(workdir, 0), workdir)
        work, params, found = done.work, done.params, summary(done)
    with devices.on_mesh(MeshShape()):
        back = {f"{rate:g}": attack(work, params, task, rate)[0] for rate in RATES}
    return found | {"back": back}


def picture(cases: dict[str, dict], path: pathlib.Path) -> None:
    """Accuracy along the steps, a column for each task and a row for each rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(name.split("/")[0] for name in cases))
    figure = Figure(figsize=(2.6 * len(tasks), 5.6), layout="constrained")
    axes = figure.subplots(len(RATES), len(tasks), sharey=True, squeeze=False)
    names = [str(step) for step in (0, *STEPS)]
    for column, task in enumerate(tasks):
        for row, rate in enumerate(RATES):
            panel = axes[row][column]
            for mode, (colour, style) in DRAWN.items():
                if case := cases.get(f"{task}/{mode}"):
                    values = 100 * np.array(case["back"][f"{rate:g}"])
                    panel.plot(names, values, style, color=colour, label=mode)
            panel.set_title(f"{task}, Adam {rate:g}", fontsize=10)
            panel.set_ylim(-3, 103)
            panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("steps on the first half")
    for panel in axes[:, 0]:
        panel.set_ylabel("accuracy on the second half, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the modes and writes the table of all cases that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument(
        "--modes",
        default="|".join([*REPORTED, *(m for m in MADE if m not in REPORTED)]),
    )
    parser.add_argument("--tasks", default=",".join(TRIED + OTHERS + RESERVED))
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    cases = Cases(arguments.workdir, "relearn.json")
    for mode in arguments.modes.split("|"):
        for task in arguments.tasks.split(","):
            if task in TRIED or mode in REPORTED:
                cases.run(
                    f"{task}/{mode}",
                    lambda m=mode, t=task: run_mode(m, t, arguments.workdir),
                )
    text = relearn_page(cases.found, TRIED, RESERVED, STEPS)
    (ROOT / "results" / "relearn_table.md").write_text(text)
    picture(cases.found, ROOT / "results" / "relearn_table.png")
    print(text)


if __name__ == "__main__":
    main()
