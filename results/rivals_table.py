# SPDX-License-Identifier: Apache-2.0
"""Every method beside ours on the embedded benchmark, each with a rate that was searched.

    python results/rivals_table.py --workdir=runs/rivals_table [--entries=npo,wga] [--attacks]

writes results/rivals_table.md and .png. All methods have the same budget: so many rates
(`--rates`), and for each as many steps as 1 / `--share` of the FLOPs allow in which the
naive alternative trains from scratch, whatever else a method computes (reference,
statistics, importance, copies) being counted. Rates are chosen with seed 0 and reported
with others.

The largest rate is 5e-5 x 2048 / width of the model: Adam's rate for matrices falls as the
width rises (arXiv 2203.03466), and 5e-5 is the largest that the literature searches, of
Llama-3.2-1B, which is 2048 wide. Each further one is half of the one before. LoKU's deltas
get ten times as much, as its authors have it. Ours have no Adam; their largest step is
twice that of configs/surgery.py, and the others follow in the same way. (That config was
tuned with seed 0 before, its rivals with what their authors publish.)

Of the rates that keep retained and general facts within 2 % of the start the one is chosen
whose removed facts and update are nearest to what they should be: the sum of the distances
of obsolete and problematic facts to chance, and of the update to 100 %. Where none keeps
them, it is the one that loses least, and the table says so.

Finished runs are not repeated, and other methods that are finished stay in the table.

Hardware: 2 CPU cores, 3 GiB; a run of the default share takes about 3 to 6 minutes.
"""

import argparse
import json
import pathlib
from typing import Any

from paper_table import run_once
from rivals_cases import Entry, entries, steps_for, write_pairs
from robust_table import attacked
from tables import markdown, mean_and_deviation, on_this_machine

from jax_surgery.benchmarks import embedded
from jax_surgery.runs import surgery
from jax_surgery.train.loop import TrainingDiverged

HERE = pathlib.Path(__file__).parent
REMOVED, KEPT = ("obsolete", "problematic"), ("retain", "general")
CHANCE, ALLOWED = 25.0, 0.02


def trial(entry: Entry, rate: float, steps: int, seed: int, attacks: bool):
    """A run of one rate, in its folder."""

    def run(folder: str) -> dict[str, Any]:
        place = pathlib.Path(folder)
        settings = entry.settings(rate, steps, seed)
        try:
            results = surgery.run(settings, str(place / "run"))
        except TrainingDiverged as error:
            return {"rate": rate, "steps": steps, "diverged": str(error)}
        percent = lambda found: {g: 100 * e["accuracy"] for g, e in found.items()}
        found = {
            "rate": rate,
            "steps": steps,
            "before": percent(results["before"]),
            "after": percent(results["after"]),
            "ratio": results["cost"]["ratio"],
        }
        if attacks:
            found["attacks"] = attacked(str(place / "run"), place / "attacks")
        return found

    return run


def kept(one: dict[str, Any]) -> float:
    """The least share of its accuracy that a kept group has left."""
    return min(one["after"][group] / one["before"][group] for group in KEPT)


def distance(one: dict[str, Any]) -> float:
    """How far removed facts are from chance and the update from 100 %, summed."""
    removed = sum(abs(one["after"][group] - CHANCE) for group in REMOVED)
    return removed + 100 - one["after"]["update"]


def chosen(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The trial whose rate is taken; None where all diverged."""
    finished = [one for one in trials if "after" in one]
    within = [one for one in finished if kept(one) >= 1 - ALLOWED]
    if within:
        return min(within, key=distance)
    return max(finished, key=kept, default=None)


class Cases:
    """The runs of a workdir, those that are finished among them.

    Attributes:
      budget: what is the same for all, which a workdir keeps.
    """

    def __init__(self, workdir: pathlib.Path, rates: int, share: float):
        self.workdir, self.rates, self.share = workdir, rates, share
        self.budget = {"rates": rates, "share": share}
        workdir.mkdir(parents=True, exist_ok=True)
        known = workdir / "budget.json"
        if known.exists() and json.loads(known.read_text()) != self.budget:
            raise SystemExit(
                f"{known} has another budget than --rates={rates} --share={share:g}, and "
                "methods of different budgets are not compared; use another --workdir."
            )
        known.write_text(json.dumps(self.budget))

    def folder(self, entry: Entry, what: str) -> pathlib.Path:
        """Where a run of a method lies."""
        return self.workdir / entry.name.replace("/", "-") / what

    def search(self, entry: Entry) -> list[dict[str, Any]]:
        """The trials of a method with seed 0."""
        count = lambda _: {"steps": steps_for(entry, self.share)}
        steps = run_once(self.folder(entry, "steps"), count)["steps"]
        return [
            run_once(
                self.folder(entry, f"rate-{rate:.3g}"),
                trial(entry, rate, steps, 0, attacks=False),
            )
            for rate in entry.rates(self.rates)
        ]

    def report(
        self, entry: Entry, best: dict[str, Any], seeds: list[int], attacks: bool
    ) -> list[dict[str, Any]]:
        """Runs of the chosen rate with other seeds."""
        of = (entry, best["rate"], best["steps"])
        end = "-attacked" if attacks else ""
        return [
            run_once(self.folder(entry, f"seed-{s}{end}"), trial(*of, s, attacks))
            for s in seeds
        ]

    def is_finished(self, entry: Entry, seeds: list[int], attacks: bool) -> bool:
        """Whether nothing of a method would be run."""
        end = "-attacked" if attacks else ""
        names = [f"rate-{rate:.3g}" for rate in entry.rates(self.rates)]
        folders = [*names, *(f"seed-{seed}{end}" for seed in seeds)]
        return all(
            (self.folder(entry, name) / "table_entry.json").exists() for name in folders
        )


Found = dict[str, tuple[Entry, dict[str, Any], list[dict[str, Any]]]]


def worst(one: dict[str, Any]) -> float:
    """What the strongest attack brings back, %."""
    return max(value for value in one["attacks"].values() if isinstance(value, float))


def table(found: Found, cases: Cases, seeds: list[int]) -> str:
    """The table as Markdown."""
    rows = []
    attacks = all("attacks" in one for _, _, runs in found.values() for one in runs)
    for name, (entry, best, runs) in found.items():
        rates, done = entry.rates(cases.rates), [one for one in runs if "after" in one]
        note = ""
        if best["rate"] in (rates[0], rates[-1]):
            note = ", at the edge"
        if kept(best) < 1 - ALLOWED:
            note += ", none keeps 98 %"
        cells = [f"`{name}`", f"{best['rate']:.2g}{note}", str(best["steps"])]
        if len(done) < len(runs):
            cells.append(f"{len(runs) - len(done)} of {len(runs)} diverged")
        elif done:
            for group in (*REMOVED, "update", *KEPT):
                values = [one["after"][group] for one in done]
                cells.append(mean_and_deviation(values, 1))
            cells.append(f"1/{sum(one['ratio'] for one in done) / len(done):.0f}")
            if attacks:
                cells.append(mean_and_deviation([worst(one) for one in done], 1))
        rows.append(cells)
    start = next(iter(found.values()))[1]["before"]
    before = ", ".join(f"{group} {value:.1f}" for group, value in start.items())
    heads = ["method", "rate", "steps", *REMOVED, "update", *KEPT, "FLOPs"]
    heads += ["under the worst attack"] if attacks else []
    rows = [cells + [""] * (len(heads) - len(cells)) for cells in rows]
    return (
        f"Four-option accuracy in %, mean and deviation over seeds "
        f"{', '.join(map(str, seeds))}; chance is 25, before it was {before}. Budget, the "
        f"same for all: {cases.rates} rates, and for each 1/{cases.share:g} of the FLOPs "
        "of training from scratch; the rate was chosen with seed 0. FLOPs are those of one "
        "run.\n\n" + markdown(heads, rows)
    )


def picture(found: Found, file: pathlib.Path) -> None:
    """Forgetting against what is retained, and the strongest attack beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    mean = lambda values: sum(values) / len(values)
    whole = {
        name: runs
        for name, (_, _, runs) in found.items()
        if all("after" in one for one in runs)
    }
    attacks = all("attacks" in one for runs in whole.values() for one in runs)
    points = {}
    for name, runs in whole.items():
        points[name] = [
            100 * mean([kept(one) for one in runs]),
            mean([max(one["after"][g] for g in REMOVED) for one in runs]),
            *([mean([worst(one) for one in runs])] if attacks else []),
        ]
    figure = Figure(figsize=(11 if attacks else 6.5, 5), layout="constrained")
    labels = ["removed facts right, %", "removed facts right under the worst attack, %"]
    for number in range(1 + attacks):
        axes = figure.add_subplot(1, 1 + attacks, number + 1)
        for name, (x, *y) in points.items():
            ours = name.startswith("configs/")
            colour = "tab:red" if ours else "tab:blue"
            axes.plot(x, y[number], "o" if ours else ".", color=colour)
            axes.annotate(
                name, (x, y[number]), fontsize=7, xytext=(3, 3),
                textcoords="offset points",
            )  # fmt: skip
        axes.axhline(CHANCE, color="grey", linestyle="--", linewidth=1)
        axes.axvline(100 * (1 - ALLOWED), color="grey", linestyle=":", linewidth=1)
        axes.set_xlabel("retained and general facts, % of the start, the smaller")
        axes.set_ylabel(labels[number])
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle("better is lower right; dashed: chance, dotted: 98 % kept", size=9)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Runs what is missing and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--entries", default="", help="comma-separated; all by default")
    parser.add_argument("--rates", type=int, default=5, help="of each method")
    parser.add_argument("--share", type=float, default=20.0, help="1 / share of FLOPs")
    parser.add_argument("--seeds", default="1,2,3", help="reported; not 0")
    parser.add_argument("--attacks", action="store_true", help="on the reported runs")
    parser.add_argument("--out", default=str(HERE / "rivals_table"))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if 0 in seeds:
        parser.error("--seeds has 0, with which rates are chosen; report others.")
    workdir = pathlib.Path(arguments.workdir)
    cases = Cases(workdir, arguments.rates, arguments.share)
    pairs = workdir / "pairs.jsonl"
    if not pairs.exists():
        write_pairs(pairs)
    raw = json.loads((embedded.MODEL / "config.json").read_text())
    every = entries(pairs, raw["hidden_size"])
    wanted = arguments.entries.split(",") if arguments.entries else list(every)
    if unknown := [name for name in wanted if name not in every]:
        parser.error(f"--entries has {unknown[0]!r}; choose from {', '.join(every)}.")
    found: Found = {}
    for name, entry in every.items():
        if name not in wanted and not cases.is_finished(
            entry, seeds, arguments.attacks
        ):
            continue
        best = chosen(cases.search(entry))
        if best is None:
            print(f"{name}: every rate diverged, so it is not in the table.")
            continue
        found[name] = (entry, best, cases.report(entry, best, seeds, arguments.attacks))
    text = table(found, cases, seeds)
    command = "python results/rivals_table.py" + (
        " --attacks" if arguments.attacks else ""
    )
    pathlib.Path(arguments.out + ".md").write_text(
        "# Every method beside ours on the embedded benchmark\n\n"
        f"{text}\nCommand: `{command}`; {on_this_machine()}.\n"
    )
    picture(found, pathlib.Path(arguments.out + ".png"))
    print(text)


if __name__ == "__main__":
    main()
