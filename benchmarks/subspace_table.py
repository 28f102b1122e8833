# SPDX-License-Identifier: Apache-2.0
"""Every task of the suite removed, and new ones added: writes subspace_table.md.

python benchmarks/subspace_table.py --workdir=DIR [--parts=unlearn,together,...]

Hardware: 2 CPU cores, 2 GiB; `unlearn` took 9 minutes.
Cases that are finished in the workdir are not run again. Models of seeds 1 and 2, and
those that never knew some of the tasks, are pretrained first (3 minutes each).

Parts (`relearn` and `readings` of the first seed alone):
  unlearn   each of 15 tasks, three pretraining seeds, the defaults
  together  two and four tasks at once
  learn     three new tasks, three seeds, against LoRA
  relearn   how far half of the removed items bring back the other half
  readings  the paper's and other ways to discriminate, on four targets
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
import optax

from jax_surgery.data import records, suite
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import encode
from jax_surgery.evaluation.answers import score_answers
from jax_surgery.evaluation.task_scores import drop, removed
from jax_surgery.runs import devices, pretrain
from jax_surgery.runs import settings as run_settings
from jax_surgery.runs.subspace import outcome, story, subject
from jax_surgery.surgery.subspace import identify, learn

ROOT = pathlib.Path(__file__).parents[1]
RESERVED = [n for n, t in suite.TASKS.items() if t.status == "reserved"]
NEW = ("rotate", "dict_c", "people_c")
TOGETHER = (
    "dict_a,people_a",
    "add,reverse",
    "capital,larger",
    "next,river",
    "dict_a,people_a,add,copy",
    "capital,smaller,next,sort",
)
LORA_RATES = (3e-4, 1e-3, 3e-3)
# Two models that never knew half of the tasks each.
NEVER = (
    ("sub", "reverse", "dict_b", "people_b", "river", "smaller", "previous"),
    ("add", "sort", "dict_a", "people_a", "capital", "larger", "next"),
)
RELEARNED = ("dict_a", "people_a", "add", "capital", "next", "reverse")
RELEARN_STEPS = (5, 10, 20, 80)
RELEARN_RATE, RELEARN_RECORDS = 3e-4, 64
HARDENED = {"harden.copies": 6}
OVERWRITTEN = {"identify.overwrite": 1.0, "rounds.step": 0.01, "rounds.number": 80}
MODES = {
    "default": {},
    "hardened": HARDENED,
    "overwrite, hardened": OVERWRITTEN | HARDENED,
    "overwrite": OVERWRITTEN,
    "no discrimination": {"discriminate.method": "none", "discriminate.guard": 0.0},
    "LoRA": {
        "lora.rank": 8,
        "optimizer.learning_rate": 1e-3,
        "rounds.number": 300,
    },
}
ONCE = {"rounds.mode": "one_shot", "rounds.alpha": 0.0, "rounds.number": 40}
CROSS = {"identify.loss": "cross_entropy"}
READINGS = {
    "rounds, ridge and guard (default)": {},
    "rounds, ridge": {"discriminate.guard": 0.0},
    "rounds, guard alone": {"discriminate.method": "none"},
    "rounds, Gram-Schmidt": {
        "discriminate.method": "gram_schmidt",
        "discriminate.guard": 0.0,
    },
    "rounds, nothing": {"discriminate.method": "none", "discriminate.guard": 0.0},
    "rounds, layer by layer in turn": {"identify.order": "cyclic"},
    "one shot, ridge": ONCE | CROSS,
    "one shot, Gram-Schmidt": ONCE | CROSS | {"discriminate.method": "gram_schmidt"},
    "the paper's figure: random start, Adam, layer by layer, Gram-Schmidt": ONCE
    | CROSS
    | {
        "identify.temperature": 1.0,
        "identify.start": "random",
        "identify.order": "first_to_last",
        "identify.adam": 1e-3,
        "rounds.number": 160,
        "discriminate.method": "gram_schmidt",
    },
}


def settings_of(name: str, **fields):
    """A config of `configs/` with some fields changed, as settings."""
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.update_from_flattened_dict(fields)
    return run_settings.from_config(config)


def model_of(workdir: pathlib.Path, seed: int, without: tuple[str, ...] = ()) -> str:
    """The suite's model of a seed, pretrained if it is not yet there."""
    if seed == 0 and not without:
        return str(suite.MODEL)
    name = f"suite_{seed}" + ("_without_" + without[0] if without else "")
    folder = workdir / name
    if not (folder / "results.json").exists():
        fields = {"seed": seed, "loop.checkpoint_every": 0}
        if without:
            fields["data.train"] = "suite:without:" + "+".join(without)
        folder.mkdir(parents=True, exist_ok=True)
        pretrain.run(settings_of("suite", **fields), str(folder))
    return str(folder / "model")


@dataclasses.dataclass
class Done:
    """A case: the model after it, and what it scores."""

    subject: subject.Subject
    params: object
    before: dict
    after: dict
    similar: set
    seconds: float


def operate(name: str, targets: str, model: str, **fields) -> Done:
    """Runs the stages of a config, without its report."""
    settings = settings_of(
        name, model=model, **{"tasks.targets": targets, "report.angles": 0}, **fields
    )
    with devices.on_mesh(settings.mesh), tempfile.TemporaryDirectory() as folder:
        patient = subject.admit(settings)
        before = patient.scores(patient.params)
        began = time.perf_counter()
        done = story.stages(patient, before, None, folder)

        def at(alpha):
            return learn.learn(patient.params, done.change, alpha, done.moving)

        params = at(settings.rounds.alpha or story.seek(done.last, patient.params, at))
        jax.block_until_ready(params)
        seconds = time.perf_counter() - began
        after = patient.scores(params)
    return Done(patient, params, before, after, done.similar, seconds)


def summary(done: Done) -> dict:
    """What the tables need of a case."""
    role = outcome.roles(done.before, done.similar, done.subject.settings)
    # Of "new" tasks the model has never seen a text.
    of = lambda what: [
        name
        for name in role
        if role[name] == what and (what == "target" or name in suite.PRETRAINED)
    ]
    lost = lambda names: [drop(done.before[n], done.after[n]) for n in names]
    return {
        "removed": [removed(done.before[n], done.after[n]) for n in of("target")],
        "accuracy": [done.after[n].value for n in of("target")],
        "similar": lost(of("similar")),
        "other": lost(of("other")),
        "seconds": done.seconds,
    }


def relearn(done: Done, params, task: str) -> list[float]:
    """Accuracy on a task's second half before, and after steps of Adam on its first."""
    patient = done.subject
    settings, rng = patient.settings, np.random.default_rng(0)
    context = settings.tasks.context

    def documents(split):
        texts = records.read_source(f"suite:{task}:{split}")
        return encode(texts, patient.tokenizer, context)

    first, second = documents("first"), documents("second")
    for document in second:
        document.learned[-1] = False  # the end of a text is no knowledge
    how = identify.TaskLoss("cross_entropy", 1.0)
    trainable = settings.trainable(patient.config)
    everything = dataclasses.replace(trainable, first_layer=0, matrices=())
    optimizer = optax.adam(RELEARN_RATE)

    @jax.jit
    def step(params, state, batch):
        gradient = jax.grad(
            lambda p: identify.pull(
                p, patient.config, batch, how, settings.compute, everything
            )[0]
        )(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    def accuracy(params):
        compute = settings.compute
        return score_answers(params, patient.config, second, context, compute).accuracy

    found, state = [accuracy(params)], optimizer.init(params)
    for number in range(1, max(RELEARN_STEPS) + 1):
        picks = rng.permutation(len(first))[:RELEARN_RECORDS]
        packed = Packer([first[i] for i in picks], context, "tokens").pack()
        rows = packed.take(np.arange(10) % len(packed))
        weights = np.where(np.arange(10) < len(packed), 1.0, 0.0)[:, None]
        weights = weights * rows.weights_RT
        batch = {
            "tokens_BT": rows.tokens_RT,
            "segment_ids_BT": rows.segment_ids_RT,
            "positions_BT": rows.positions_RT,
            identify.PUSH: (-weights / weights.sum()).astype(np.float32),
            identify.BOUND: np.zeros_like(rows.weights_RT),
        }
        params, state = step(params, state, batch)
        if number in RELEARN_STEPS:
            found.append(accuracy(params))
    return found


class Cases:
    """Results by name, kept in a JSON file."""

    def __init__(self, workdir: pathlib.Path):
        self._file = workdir / "cases.json"
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


def run_unlearn(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Every task of every seed."""
    for seed in seeds:
        model = model_of(workdir, seed)
        for task in suite.PRETRAINED:
            cases.run(
                f"unlearn/{seed}/{task}",
                lambda t=task, m=model: summary(operate("unlearn", t, m)),
            )


def run_together(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Several tasks at once, of each seed."""
    for seed in seeds:
        model = model_of(workdir, seed)
        for targets in TOGETHER:
            cases.run(
                f"together/{seed}/{targets}",
                lambda t=targets, m=model: summary(operate("unlearn", t, m)),
            )


def _lora(rate: float, replay: bool) -> dict:
    fields = {
        "lora.rank": 8,
        "optimizer.learning_rate": rate,
        "identify.loss": "cross_entropy",
        "identify.temperature": 1.0,
        "discriminate.guard": float(replay),
        "rounds.number": 300,
    }
    return fields if replay else fields | {"tasks.rows_kept": 0}


def run_learn(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """New tasks, by LEARN and by LoRA."""
    for seed in seeds:
        model = model_of(workdir, seed)
        for task in NEW:
            ways = {"LEARN": {}}
            for rate in LORA_RATES:
                ways[f"LoRA {rate:g}"] = _lora(rate, False)
                ways[f"LoRA {rate:g} replay"] = _lora(rate, True)
            for way, fields in ways.items():
                cases.run(
                    f"learn/{seed}/{task}/{way}",
                    lambda t=task, m=model, f=fields: summary(
                        operate("learn", t, m, **f)
                    ),
                )


def run_relearn(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """What comes back, of each mode, and of models that never knew; the first seed."""
    model = model_of(workdir, seeds[0])

    def of_mode(task, fields):
        done = operate("unlearn", task, model, **fields)
        return summary(done) | {"back": relearn(done, done.params, task)}

    def never(task):
        without = next(names for names in NEVER if task in names)
        folder = model_of(workdir, seeds[0], without)
        settings = settings_of("unlearn", model=folder)
        with devices.on_mesh(settings.mesh):
            patient = subject.admit(settings)
            empty = Done(patient, patient.params, {}, {}, set(), 0.0)
            return {"back": relearn(empty, patient.params, task)}

    for task in RELEARNED:
        for mode, fields in MODES.items():
            cases.run(f"relearn/{mode}/{task}", lambda t=task, f=fields: of_mode(t, f))
        cases.run(f"relearn/never knew/{task}", lambda t=task: never(t))


def run_readings(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Readings of the method on four targets; the first seed."""
    model = model_of(workdir, seeds[0])

    def attempt(task, fields):
        try:
            return summary(operate("unlearn", task, model, **fields))
        except ValueError as error:
            return {"error": str(error).splitlines()[0]}

    for task in ("add", "reverse", "dict_a", "people_a"):
        for name, fields in READINGS.items():
            cases.run(f"readings/{name}/{task}", lambda t=task, f=fields: attempt(t, f))


PARTS = {
    "unlearn": run_unlearn,
    "together": run_together,
    "learn": run_learn,
    "relearn": run_relearn,
    "readings": run_readings,
}


def main() -> None:
    """Runs the parts and writes the tables of all cases that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2", help="of pretraining")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    cases = Cases(arguments.workdir)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for part in arguments.parts.split(","):
        PARTS[part](cases, arguments.workdir, seeds)
    from subspace_tables import page

    text = page(cases, RESERVED)
    (ROOT / "benchmarks" / "subspace_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
