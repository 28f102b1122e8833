# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery on TOFU (arXiv 2401.06121): forget05 out of a model fitted to `full`.

    python benchmarks/tofu_table.py --dir=DIR_OF_TOFU --workdir=runs/tofu_table

runs configs/tofu.py once a seed of the surgery (the fit is made once and shared) and
writes benchmarks/tofu_table.md: answer probability and ROUGE-L on forget, retain and
held-out questions, before and after. Finished runs are not repeated.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil

import jax
from paper_table import HERE, load_config, mean_and_deviation, run_once

from jax_surgery.evaluation.report import page
from jax_surgery.model import llama
from jax_surgery.model.config import from_hf
from jax_surgery.runs import tofu

GROUPS = ("forget", "retain", "holdout")
MEASURES = {"probability": "answer probability", "rouge_l": "ROUGE-L recall"}


def runs(arguments) -> list[dict]:
    """The results of each seed."""
    base = load_config("tofu")
    base = dataclasses.replace(
        base, data=dataclasses.replace(base.data, dir=arguments.dir)
    )
    entries, fitted = [], None
    for seed in map(int, arguments.seeds.split(",")):
        wanted = dataclasses.replace(
            base, surgery=dataclasses.replace(base.surgery, seed=seed)
        )
        folder = pathlib.Path(arguments.workdir) / f"seed-{seed}"
        if fitted and not (folder / "fit").exists():
            shutil.copytree(fitted, folder / "fit")
        entries.append(
            run_once(folder, lambda place, wanted=wanted: tofu.run(wanted, place))
        )
        fitted = folder / "fit"
    return entries


def table(entries: list[dict], arguments) -> str:
    """The table as Markdown."""
    lines = [
        "| questions | measure | before | after | n |",
        "|---|---|---|---|---|",
    ]
    for group in GROUPS:
        for key, label in MEASURES.items():
            before = entries[0]["before"][group][key]
            after = mean_and_deviation([e["after"][group][key] for e in entries], 3)
            count = entries[0]["after"][group]["n"]
            lines.append(f"| {group} | {label} | {before:.3f} | {after} | {count} |")
    versions = page.versions()
    seconds = [f"{entry['seconds']:.0f}" for entry in entries]
    ratio = entries[0]["cost"]["ratio"]
    first = pathlib.Path(arguments.workdir) / f"seed-{arguments.seeds.split(',')[0]}"
    fitted = json.loads((first / "fit" / "model" / "config.json").read_text())
    size = llama.parameter_count(from_hf(fitted))
    return (
        "# LLM Surgery on TOFU, forget05\n\n"
        f"A Llama of {size / 1e6:.1f} M parameters fitted to `full`; forget05 unlearned, retain95 kept, "
        "refusals of `idk.txt` learned. Answer probability is exp(-mean NLL a token); "
        "both measures lie between 0 and 1; after: mean ± deviation over the seeds "
        f"{arguments.seeds} of the surgery. Held-out questions are about people that "
        "no model here was trained on.\n\n"
        + "\n".join(lines)
        + f"\n\nSeconds end to end: {', '.join(seconds)} (the first with the fit). "
        f"Cost: {ratio:.0f} times fewer FLOPs than training on retain95 and the "
        "refusals from where the model began.\n\n"
        "Command: `python benchmarks/tofu_table.py --dir=DIR_OF_TOFU`; "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device, "
        f"{versions['machine']}, Python {versions['python']}, jax {versions['jax']}, "
        f"flax {versions['flax']}.\n"
    )


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dir", required=True, help="directory of TOFU's JSONL files")
    parser.add_argument("--workdir", default="runs/tofu_table")
    parser.add_argument("--seeds", default="0,1,2", help="of the surgery")
    parser.add_argument("--out", default=str(HERE / "tofu_table.md"))
    arguments = parser.parse_args()
    text = table(runs(arguments), arguments)
    pathlib.Path(arguments.out).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
