# SPDX-License-Identifier: Apache-2.0
"""The table of LLM Surgery (arXiv 2409.13054) on the embedded benchmark.

theta_pre, theta_baseline (the naive alternative: the same initial model trained from
scratch on update and everything retained), and the ablations GD only, GA+GD, GD+KL and
all three terms, each with the paper's printed objective (configs/paper_formula.py) and with
this project's default (configs/surgery.py); and what its authors ran, four streams with
weights of their own (configs/paper.py), of which theta_pre is the reference here: nothing
off the shelf knows this world. Mean and deviation over seeds.

    python results/paper_table.py --workdir=runs/paper_table

writes results/paper_table.md and .png. Runs that are finished are not repeated, so
a stopped benchmark goes on. On one CPU core beside other work a baseline takes 40 to 44
minutes, on two the other runs two to three each; `--only=surgery` leaves the baselines
out.
"""

import argparse
import json
import pathlib
import statistics
import time

from tables import markdown, mean_and_deviation, on_this_machine, settings_of

from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.runs import pretrain, surgery

HERE = pathlib.Path(__file__).parent
GROUPS = ("obsolete", "problematic", "update", "retain", "general")
TERMS = {
    "GD only": {"objective.alpha": 0.0, "objective.gamma": 0.0},
    "GA+GD": {"objective.gamma": 0.0},
    "GD+KL": {"objective.alpha": 0.0},
    "all three": {},
}
AUTHORS = "authors: four streams"
# configs/paper.py on this benchmark, with the retained text and the compute of the others.
EMBEDDED = {
    "model": "embedded",
    "reference_model": "",
    "data.paper": "embedded",
    "data.retain": "embedded:retain,embedded:general",
    "data.context": 256,
    "compute.dtype": "float32",
    "compute.remat": "none",
}
BASELINE_DATA = "embedded:update,embedded:retain,embedded:general"


def surgeries(seed: int) -> dict[str, SurgerySettings]:
    """The surgery runs of one seed, by name."""
    # In float32, so that what is compared are methods and not the rounding of exports.
    fields = {"seed": seed, "loop.evaluate_every": 0, "save_dtype": "float32"}
    found = {
        f"{family}: {terms}": settings_of(config, **fields, **weights)
        for family, config in (("paper", "paper_formula"), ("default", "surgery"))
        for terms, weights in TERMS.items()
    }
    return found | {AUTHORS: settings_of("paper", **fields, **EMBEDDED)}


def run_once(folder: pathlib.Path, run) -> dict:
    """The results of a run, from its folder where it is finished."""
    file = folder / "table_entry.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        entry = run(str(folder))
        entry["seconds"] = time.perf_counter() - began
        file.write_text(json.dumps(entry, indent=2))
    return json.loads(file.read_text())


def baseline_run(seed: int):
    """Trains theta_baseline of one seed."""
    fields = {"data.train": BASELINE_DATA, "loop.evaluate_every": 0}
    wanted = settings_of("pretrain", seed=seed, **fields)

    def run(folder: str) -> dict:
        return {"after": pretrain.run(wanted, folder)["evaluation"]}

    return run


def collect(workdir: pathlib.Path, seeds: list[int], only: str) -> dict[str, list]:
    """Entries by name, one a seed."""
    entries: dict[str, list] = {}
    for seed in seeds:
        if only != "surgery":
            folder = workdir / f"baseline-{seed}"
            entry = run_once(folder, baseline_run(seed))
            entries.setdefault("theta_baseline", []).append(entry)
        if only == "baseline":
            continue
        for name, wanted in surgeries(seed).items():
            slug = name.replace(": ", "-").replace(" ", "_").replace("+", "_")
            entry = run_once(
                workdir / f"{slug}-{seed}",
                lambda folder, wanted=wanted: surgery.run(wanted, folder),
            )
            if seed == seeds[0]:
                entries.setdefault("theta_pre", [{"after": entry["before"]}])
            entries.setdefault(name, []).append(entry)
    order = sorted(entries, key=lambda name: name != "theta_pre")
    return {name: entries[name] for name in order}


def columns(entry: dict) -> dict[str, float]:
    """Accuracy of each group, with update's and forgotten groups' wordings apart."""
    found = {}
    for group in GROUPS:
        accuracy = entry["after"][group]
        if group in ("retain", "general"):
            found[group] = accuracy["accuracy"]
        else:
            for wording in ("trained", "unseen"):
                found[f"{group}, {wording}"] = accuracy[wording]["accuracy"]
    return found


def table(entries: dict[str, list], seeds: list[int]) -> str:
    """The table as Markdown."""
    names = list(columns(next(iter(entries.values()))[0]))
    rows = []
    for name, runs in entries.items():
        cells = [
            mean_and_deviation([100 * columns(run)[key] for run in runs], 1)
            for key in names
        ]
        ratios = [run["cost"]["ratio"] for run in runs if "cost" in run]
        ratio = f"{statistics.mean(ratios):.1f}" if ratios else ""
        ratio = "1" if name == "theta_baseline" else ratio
        seconds = [run["seconds"] for run in runs if "seconds" in run]
        took = f"{statistics.median(seconds):.0f}" if seconds else ""
        rows.append([name, *cells, ratio, took])
    about = (
        "Four-option accuracy, %, mean ± deviation over seeds "
        f"{', '.join(map(str, seeds))} (theta_pre is one model); chance is 25. "
        "`trained` and `unseen` are the questions' wordings. Cost: FLOPs of the naive "
        "alternative over those of the surgery. Seconds: the whole run, evaluations "
        "included.\n\n"
        f"Command: `python results/paper_table.py`; {on_this_machine()}.\n\n"
    )
    return about + markdown(["run", *names, "times cheaper", "seconds"], rows)


def picture(entries: dict[str, list], file: pathlib.Path) -> None:
    """Bars of each run's accuracies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    from jax_surgery.report.pictures import COLOURS

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(GROUPS)
    for number, group in enumerate(GROUPS):
        accuracy = [
            [r["after"][group]["accuracy"] for r in v] for v in entries.values()
        ]
        means = [100 * statistics.mean(a) for a in accuracy]
        spread = [100 * statistics.stdev(a) if len(a) > 1 else 0.0 for a in accuracy]
        places = [i + (number - 2) * width for i in range(len(entries))]
        axes.bar(
            places, means, width, yerr=spread, label=group, color=COLOURS[group],
            error_kw={"elinewidth": 0.8},
        )  # fmt: skip
    axes.axhline(25, color="grey", linestyle="--", linewidth=1)
    labels = [n.replace(": ", ":\n").replace("_", "\n") for n in entries]
    axes.set_xticks(range(len(entries)), labels, fontsize=8)
    axes.set_ylabel("accuracy, % (dashed: chance)")
    axes.set_ylim(0, 115)
    axes.legend(ncols=5, frameon=False, loc="upper center", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Runs what is missing and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/paper_table")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--only", default="", choices=("", "surgery", "baseline"))
    parser.add_argument("--out", default=str(HERE / "paper_table"))
    parser.add_argument("--note", default="", help="what to know of this table")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    entries = collect(pathlib.Path(arguments.workdir), seeds, arguments.only)
    text = table(entries, seeds)
    if arguments.note:
        text += f"\n{arguments.note}\n"
    pathlib.Path(arguments.out + ".md").write_text(
        "# LLM Surgery's table on the embedded benchmark\n\n" + text
    )
    picture(entries, pathlib.Path(arguments.out + ".png"))
    print(text)


if __name__ == "__main__":
    main()
