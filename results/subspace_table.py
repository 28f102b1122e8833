# SPDX-License-Identifier: Apache-2.0
"""Every task of the suite removed, and new ones added: writes subspace_table.md.

python results/subspace_table.py --workdir=DIR [--parts=unlearn,together,...]

Hardware: 2 CPU cores, 2 GiB; `unlearn` took 12 minutes.
Cases that are finished in the workdir are not run again. Models of seeds 1 and 2 are
pretrained first (3 minutes each).

Parts (`readings` of the first seed alone):
  unlearn   each of 15 tasks, three pretraining seeds, the defaults
  together  two and four tasks at once
  learn     three new tasks, three seeds, against LoRA
  readings  the paper's and other ways to discriminate, on four targets
"""

import argparse
import pathlib

from subspace_cases import ONE_SHOT, ROOT, Cases, model_of, run_case, summary
from subspace_tables import page

from jax_surgery.benchmarks import suite

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
READINGS = {
    "rounds, ridge, guard and mending (default)": {},
    "rounds, ridge and guard": {"method": "subspace:mend=0"},
    "rounds, ridge": {"method": "subspace:guard=0"},
    "rounds, guard alone": {"method": "subspace:discriminate=none,mend=0"},
    "rounds, Gram-Schmidt": {"method": "subspace:discriminate=gram_schmidt,guard=0"},
    "rounds, nothing": {"method": "subspace:discriminate=none,guard=0"},
    "rounds, layer by layer in turn": {"method": "subspace:order=cyclic"},
    "one shot, ridge": ONE_SHOT,
    "one shot, Gram-Schmidt": ONE_SHOT
    | {"method": f"{ONE_SHOT['method']},discriminate=gram_schmidt"},
    "the paper's figure: random start, Adam, layer by layer, Gram-Schmidt": ONE_SHOT
    | {"method": "unlearn_paper", "rounds.number": 160},
}


def run_unlearn(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Every task of every seed."""
    for seed in seeds:
        model = model_of(workdir, seed)
        for task in suite.PRETRAINED:
            cases.run(
                f"unlearn/{seed}/{task}",
                lambda t=task, m=model: summary(run_case("unlearn", t, m)),
            )


def run_together(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Several tasks at once, of each seed."""
    for seed in seeds:
        model = model_of(workdir, seed)
        for targets in TOGETHER:
            cases.run(
                f"together/{seed}/{targets}",
                lambda t=targets, m=model: summary(run_case("unlearn", t, m)),
            )


def _lora(rate: float, replay: bool) -> dict:
    fields = {
        "lora.rank": 8,
        "optimizer.learning_rate": rate,
        "method": f"subspace:loss=cross_entropy,temperature=1,guard={float(replay)}",
        "rounds.number": 300,
    }
    return fields if replay else fields | {"tasks.rows_retained": 0}


def run_learn(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """New tasks, by LEARN and by LoRA."""
    ways = {"LEARN": {}}
    for rate in LORA_RATES:
        ways[f"LoRA {rate:g}"] = _lora(rate, False)
        ways[f"LoRA {rate:g} replay"] = _lora(rate, True)
    for seed in seeds:
        model = model_of(workdir, seed)
        for way, fields in ways.items():
            for task in NEW:
                cases.run(
                    f"learn/{seed}/{task}/{way}",
                    lambda t=task, m=model, f=fields: summary(
                        run_case("learn", t, m, **f)
                    ),
                )


def run_readings(cases: Cases, workdir: pathlib.Path, seeds: list[int]) -> None:
    """Readings of the method on four targets; the first seed."""
    model = model_of(workdir, seeds[0])

    def attempt(task, fields):
        try:
            return summary(run_case("unlearn", task, model, **fields))
        except ValueError as error:
            if "no alpha" not in str(error):
                raise
            fields = fields | {"rounds.alpha": 1.0}
            done = summary(run_case("unlearn", task, model, **fields))
            return done | {"short": True}

    for task in ("add", "reverse", "dict_a", "people_a"):
        for name, fields in READINGS.items():
            cases.run(f"readings/{name}/{task}", lambda t=task, f=fields: attempt(t, f))


PARTS = {
    "unlearn": run_unlearn,
    "together": run_together,
    "learn": run_learn,
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
    text = page(cases, RESERVED)
    (ROOT / "results" / "subspace_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
