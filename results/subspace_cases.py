# SPDX-License-Identifier: Apache-2.0
"""Cases of the subspace benchmarks: a config's stages on a model of the suite."""

import dataclasses
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
from tables import settings_of

from jax_surgery.benchmarks import suite
from jax_surgery.methods.subspace.run import run_stages
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.report import task_results
from jax_surgery.runs import by_tasks, pretrain
from jax_surgery.train import devices

ROOT = pathlib.Path(__file__).parents[1]
# Fields of a removal by a single subtraction of a task that was learned in 40 rounds.
ONE_SHOT = {
    "method": "subspace:one_shot=True,loss=cross_entropy",
    "rounds.alpha": 0.0,
    "rounds.number": 40,
}


def model_of(workdir: pathlib.Path, seed: int, without: tuple[str, ...] = ()) -> str:
    """The suite's model of a seed, pretrained if it is not yet there."""
    if seed == 0 and not without:
        return str(suite.MODEL)
    name = f"suite_{seed}" + ("_without_" + without[0] if without else "")
    folder = workdir / name
    if not (folder / "results.json").exists():
        fields: dict[str, object] = {"seed": seed, "loop.checkpoint_every": 0}
        if without:
            fields["data.train"] = "suite:without:" + "+".join(without)
        folder.mkdir(parents=True, exist_ok=True)
        pretrain.run(settings_of("suite", **fields), str(folder))
    return str(folder / "model")


@dataclasses.dataclass
class Done:
    """A case: the model after it, what it scores, and the last stage."""

    work: Work
    params: Any
    before: dict
    after: dict
    standing: dict
    seconds: float
    last: Stage


def run_case(name: str, targets: str, model: str, **fields) -> Done:
    """Runs the stages of a config, without its report."""
    settings = settings_of(name, model=model, **{"tasks.targets": targets} | fields)
    case = by_tasks.ByTasks(settings)
    with devices.on_mesh(settings.mesh), tempfile.TemporaryDirectory() as folder:
        initial = case.load()
        work, before = case.work, case.probe(initial).scores
        similar = [case.similar(stage) for stage in settings.tasks.stages]
        began = time.perf_counter()
        done = run_stages(work, before, similar, folder)
        params = done.at(work.model.params, done.alpha)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - began
        after = work.scores(params)
    standing = task_results.standings(before, case.targets, done.similar)
    return Done(work, params, before, after, standing, seconds, done.last)


def summary(done: Done) -> dict:
    """What the tables need of a case."""
    # Of "new" tasks the model has never seen a text.
    of = lambda what: [
        name
        for name, role in done.standing.items()
        if role == what and (what == "target" or name in suite.PRETRAINED)
    ]
    lost = lambda names: [drop(done.before[n], done.after[n]) for n in names]
    return {
        "removed": [removed(done.before[n], done.after[n]) for n in of("target")],
        "accuracy": [done.after[n].value for n in of("target")],
        "similar": lost(of("similar")),
        "other": lost(of("other")),
        "seconds": done.seconds,
    }


class Cases:
    """Results by name, kept in a JSON file."""

    def __init__(self, workdir: pathlib.Path, name: str = "cases.json"):
        self._file = workdir / name
        self.found = json.loads(self._file.read_text()) if self._file.exists() else {}

    def run(self, name: str, make) -> None:
        """Runs a case that is not there yet."""
        if name in self.found:
            return
        self.found[name] = make()
        self._file.write_text(json.dumps(self.found, indent=1))
        print(name, json.dumps(self.found[name])[:300], flush=True)

    def named(self, part: str) -> dict[str, dict]:
        """The cases of a part, by the rest of their names."""
        start = part + "/"
        return {
            k[len(start) :]: v for k, v in self.found.items() if k.startswith(start)
        }
