# SPDX-License-Identifier: Apache-2.0
"""What attacks bring back of the embedded benchmark's removed facts.

    python results/robust_table.py --workdir=runs/robust_table --seeds=1,2 [--never_knew=DIR]

runs configs/surgery.py and configs/robust.py with each seed, mounts attacks on the finished
models, and writes results/robust_table.md: four-option accuracy in %, the larger one of
obsolete and problematic facts, of each kind of attack that which brings back most. Chance
is 25; DIR is the workdir of a model that never knew, which is attacked too. Settings were
chosen with seed 0. Finished runs are not repeated.

Hardware: 2 CPU cores, 3 GiB; 2 minutes a seed of the default, 5 of the other.
"""

import argparse
import pathlib
from typing import Any

from paper_table import run_once
from tables import markdown, mean_and_deviation, on_this_machine, settings_of

from jax_surgery.runs import attack, surgery

HERE = pathlib.Path(__file__).parent
CONFIGS = ("surgery", "robust")
KEPT = ("update", "retain", "general")
REMOVED = ("obsolete", "problematic")
# Each row of the table: a kind of attack, and what is mounted for it.
WITHOUT_TRAINING = {
    "a part of a layer left out": "blocks",
    "read after a layer below the last": "exits",
    "in 8 or 4 bits": "quantisation",
}
TRAINING = {
    f"relearning half, Adam {rate}": f"relearning:learning_rate={rate},steps=80"
    for rate in ("3e-4", "1e-3")
}
STEPS = (5, 20, 80)


def attacked(model: str, folder: pathlib.Path) -> dict[str, Any]:
    """What attacks bring back, by row."""
    found: dict[str, Any] = {}
    for row, spec in (WITHOUT_TRAINING | TRAINING).items():
        wanted = settings_of(
            "attack",
            model=model,
            benchmark="embedded",
            attack=spec,
            measure_at=",".join(map(str, STEPS)),
        )
        place = folder / spec.partition(":")[0]
        curve = attack.run(wanted, str(place))["curve"]
        if row in TRAINING:
            for point in curve[1:]:
                found[f"{row}, {point['steps']} steps"] = worst([point])
        else:
            found[row] = worst(curve[1:])
            found[f"{row}: which"] = label(curve[1:])
        found["nothing"] = worst(curve[:1])
    return found


def _value(point: dict[str, Any]) -> float:
    groups = point["groups"]
    return 100 * max(groups[name]["multiple_choice"]["value"] for name in REMOVED)


def worst(points: list[dict[str, Any]]) -> float:
    """The largest accuracy, in %."""
    return max(map(_value, points))


def label(points: list[dict[str, Any]]) -> str:
    """What was done where it is largest."""
    return max(points, key=_value)["label"]


def run_of(config: str, seed: int):
    """A surgery and the attacks on it."""

    def run(folder: str) -> dict[str, Any]:
        place = pathlib.Path(folder)
        wanted = settings_of(config, seed=seed, attacks="")
        results = surgery.run(wanted, str(place / "run"))
        return {
            "after": {g: 100 * e["accuracy"] for g, e in results["after"].items()},
            "before": {g: 100 * e["accuracy"] for g, e in results["before"].items()},
            "ratio": results["cost"]["ratio"],
            "attacks": attacked(str(place / "run"), place / "attacks"),
        }

    return run


def table(entries: dict[str, list[dict[str, Any]]]) -> str:
    """The table as Markdown."""
    names = list(entries)
    cell = lambda values: mean_and_deviation(values, 1)
    rows = [["FLOPs, from scratch = 1"]]
    for name in names:
        ratios = [
            f"1/{one['ratio']:.0f}" if "ratio" in one else "1" for one in entries[name]
        ]
        rows[0].append(ratios[0])
    for group in KEPT:
        rows.append(
            [
                group,
                *(
                    cell([one["after"][group] for one in entries[name]])
                    if "after" in entries[name][0]
                    else ""
                    for name in names
                ),
            ]
        )
    attacks = entries[names[0]][0]["attacks"]
    for row in ["nothing", *(r for r in attacks if r != "nothing" and ": " not in r)]:
        cells = []
        for name in names:
            text = cell([one["attacks"][row] for one in entries[name]])
            which = {one["attacks"].get(f"{row}: which", "") for one in entries[name]}
            told = f" ({', '.join(sorted(which))})" if any(which) else ""
            cells.append(text + told)
        rows.append([f"removed facts: {row}", *cells])
    heads = ["%", *(f"`configs/{n}.py`" if n in CONFIGS else n for n in names)]
    return markdown(heads, rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--never_knew", default="")
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    entries = {
        config: [run_once(workdir / f"{config}-{s}", run_of(config, s)) for s in seeds]
        for config in CONFIGS
    }
    if arguments.never_knew:
        never = lambda folder: {
            "attacks": attacked(arguments.never_knew, pathlib.Path(folder))
        }
        entries["a model that never knew"] = [run_once(workdir / "never_knew", never)]
    text = (
        f"# Attacks on removed facts\n\n{__doc__ or ''}\n"
        f"Mean and deviation over {len(seeds)} seeds.\n\n"
        f"{table(entries)}\n{on_this_machine()}.\n"
    )
    (HERE / "robust_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
