# SPDX-License-Identifier: Apache-2.0
"""The automatic mode on hundreds of facts of the embedded benchmark.

    python results/automatic_table.py --workdir=runs/automatic_table --seeds=0,1,2

runs configs/automatic.py with `data.questions=embedded`, no other field changed but the
seed, and writes results/automatic_table.md: four-option accuracy in %, chance 25. Its
settings were chosen with seed 0. Finished runs are not repeated.

Hardware: 2 CPU cores, 3 GiB; 3 minutes a seed.
"""

import argparse
import pathlib
from typing import Any

from paper_table import run_once
from tables import markdown, mean_and_deviation, on_this_machine, settings_of

from jax_surgery.methods.automatic import controller
from jax_surgery.runs import surgery

HERE = pathlib.Path(__file__).parent
ASKED = {
    "obsolete": "25 ± 5",
    "problematic": "25 ± 5",
    "update": "at least 95",
    "retain": "within 1 of before",
    "general": "within 1 of before",
}


def run_of(seed: int):
    """One run."""

    def run(folder: str) -> dict[str, Any]:
        fields = {"data.questions": "embedded", "seed": seed}
        return numbers(surgery.run(settings_of("automatic", **fields), folder))

    return run


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """What a table says of a run: accuracies in %, KL in nats per token, and what the
    run chose."""
    percent = lambda when: {
        group: 100 * entry["accuracy"] for group, entry in results[when].items()
    }
    found = results["automatic"]
    best = controller.point_at(found["curve"], found["step"])
    assert best is not None, "the run has measured the point that it exports"
    return {
        "before": percent("before"),
        "after": percent("after"),
        "optimizer": found["optimizer"],
        "step": found["step"],
        "steps": found["steps"],
        "kl": best["kl"],
    }


def table(entries: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    rows = []
    for group, asked in ASKED.items():
        after = [entry["after"][group] for entry in entries]
        each = ", ".join(f"{value:.1f}" for value in after)
        before = f"{entries[0]['before'][group]:.1f}"
        rows.append([group, before, mean_and_deviation(after, 1), each, asked])
    kl = [entry["kl"] for entry in entries]
    each = ", ".join(f"{value:.4f}" for value in kl)
    rows.append(["KL, nats per token", "0", mean_and_deviation(kl, 4), each, "0.02"])
    text = markdown(["%", "before", "after", "each seed", "asked for"], rows)
    steps = ", ".join(str(entry["steps"]) for entry in entries)
    names = ", ".join(sorted({entry["optimizer"] for entry in entries}))
    return f"{text}\nSteps: {steps}, along directions that the run chose: {names}.\n"


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    entries = [run_once(workdir / f"seed-{seed}", run_of(seed)) for seed in seeds]
    text = (
        f"# The automatic mode on many facts\n\n{__doc__ or ''}\n"
        f"Seeds {arguments.seeds}; mean and deviation over them.\n\n"
        f"{table(entries)}\n{on_this_machine()}.\n"
    )
    (HERE / "automatic_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
