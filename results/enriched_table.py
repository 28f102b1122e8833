# SPDX-License-Identifier: Apache-2.0
"""The effect of StableKE's recipe (arXiv 2402.13048) on the embedded benchmark.

    python results/enriched_table.py --workdir=runs/enriched_table --seeds=0,1,2

runs configs/surgery.py with the new facts told once, and with paraphrases of them, contextual
descriptions, or both beside; and with the twelve biographies a person that are the default.
Steps, rows of a batch and all weights are the same for all. Writes
results/enriched_table.md: four-option accuracy in %; chance is 25. Finished runs are not
repeated. On one CPU core a run takes about three minutes.
"""

import argparse
import pathlib

from paper_table import columns, run_once
from tables import markdown, mean_and_deviation, on_this_machine, settings_of

from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.runs import surgery

HERE = pathlib.Path(__file__).parent
RETAIN = "embedded:retain,embedded:general"
ONCE, PARAPHRASES, DESCRIPTIONS = (
    f"embedded:update_{name}" for name in ("once", "paraphrases", "descriptions")
)
SURROUNDED = f"{RETAIN},embedded:retain_descriptions"
# By name: text to update, and to retain.
VARIANTS = {
    "told once": (ONCE, RETAIN),
    "and paraphrases": (f"{ONCE},{PARAPHRASES}", RETAIN),
    "and descriptions": (f"{ONCE},{DESCRIPTIONS}", SURROUNDED),
    "and both": (f"{ONCE},{PARAPHRASES},{DESCRIPTIONS}", SURROUNDED),
    "twelve biographies": ("embedded:update", RETAIN),
}


def variants(seed: int) -> dict[str, SurgerySettings]:
    """The runs of one seed, by name."""
    fields = {"seed": seed, "loop.evaluate_every": 0, "attacks": "", "free_form": 0}
    return {
        name: settings_of(
            "surgery", **fields, **{"data.update": update, "data.retain": retain}
        )
        for name, (update, retain) in VARIANTS.items()
    }


def table(entries: dict[str, list], seeds: list[int]) -> str:
    """The table as Markdown."""
    heads = list(columns(next(iter(entries.values()))[0]))
    rows = [
        [name]
        + [
            mean_and_deviation([100 * columns(run)[h] for run in runs], 1)
            for h in heads
        ]
        for name, runs in entries.items()
    ]
    about = (
        "Four-option accuracy, %, mean ± deviation over seeds "
        f"{', '.join(map(str, seeds))}; chance is 25. `trained` and `unseen` are the "
        "questions' wordings.\n\n"
        f"Command: `python results/enriched_table.py`; {on_this_machine()}.\n\n"
    )
    return about + markdown(["text to update", *heads], rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/enriched_table")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--out", default=str(HERE / "enriched_table.md"))
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    entries: dict[str, list] = {}
    for seed in seeds:
        for name, wanted in variants(seed).items():
            folder = (
                pathlib.Path(arguments.workdir) / f"{name.replace(' ', '_')}-{seed}"
            )
            run = lambda place, wanted=wanted: surgery.run(wanted, place)
            entries.setdefault(name, []).append(run_once(folder, run))
    text = table(entries, seeds)
    pathlib.Path(arguments.out).write_text(
        "# StableKE's recipe on the embedded benchmark\n\n" + text
    )
    print(text)


if __name__ == "__main__":
    main()
