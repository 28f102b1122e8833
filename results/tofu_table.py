# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery on TOFU (arXiv 2401.06121): forget05 out of a model fitted to `full`.

    python results/tofu_table.py --dir=DIR_OF_TOFU --workdir=runs/tofu_table

runs configs/tofu.py once a seed of the surgery (the fit is made once and shared) and
writes results/tofu_table.md: answer probability and ROUGE-L on forget, retain and
held-out questions, before and after. Finished runs are not repeated.
"""

import argparse
import json
import pathlib
import shutil

from paper_table import HERE, run_once
from tables import markdown, mean_and_deviation, on_this_machine, settings_of

from jax_surgery.models import decoder
from jax_surgery.models.architectures import from_hf
from jax_surgery.runs import tofu
from jax_surgery.runs.tofu import TofuSettings

GROUPS = ("forget", "retain", "holdout")
MEASURES = {"probability": "answer probability", "rouge_l": "ROUGE-L recall"}


def fit_once(settings: TofuSettings, workdir: pathlib.Path) -> pathlib.Path:
    """The fitted model's folder, shared by all seeds."""
    workdir.mkdir(parents=True, exist_ok=True)
    tofu.fit(settings, str(workdir))
    return workdir / "fit"


def runs(arguments) -> tuple[pathlib.Path, list[dict]]:
    """The fitted model's folder, and the results of each seed."""
    workdir = pathlib.Path(arguments.workdir)
    given = {"data.dir": arguments.dir}
    fitted, entries = fit_once(settings_of("tofu", **given), workdir), []
    for seed in map(int, arguments.seeds.split(",")):
        folder = workdir / f"seed-{seed}"
        if not (folder / "fit").exists():
            shutil.copytree(fitted, folder / "fit")
        wanted = settings_of("tofu", **given, **{"surgery.seed": seed})
        entries.append(
            run_once(folder, lambda place, wanted=wanted: tofu.run(wanted, place))
        )
    return fitted, entries


def table(fitted: pathlib.Path, entries: list[dict], seeds: str) -> str:
    """The table as Markdown."""
    rows = []
    for group in GROUPS:
        for key, label in MEASURES.items():
            before = entries[0]["before"][group][key]
            after = mean_and_deviation([e["after"][group][key] for e in entries], 3)
            count = entries[0]["after"][group]["n"]
            rows.append([group, label, f"{before:.3f}", after, str(count)])
    seconds = [f"{entry['seconds']:.0f}" for entry in entries]
    ratio = entries[0]["cost"]["ratio"]
    raw = json.loads((fitted / "model" / "config.json").read_text())
    size = decoder.parameter_count(from_hf(raw))
    fitting = json.loads((fitted / "results.json").read_text())["seconds"]
    return (
        "# LLM Surgery on TOFU, forget05\n\n"
        f"A Llama of {size / 1e6:.1f} M parameters fitted to `full`; forget05 unlearned, retain95 retained, "
        "refusals of `idk.txt` learned. Answer probability is exp(-mean NLL per token); "
        "both measures lie between 0 and 1; after: mean ± deviation over the seeds "
        f"{seeds} of the surgery. Held-out questions are about people that "
        "no model here was trained on.\n\n"
        + markdown(["questions", "measure", "before", "after", "n"], rows)
        + f"\nSeconds: {fitting:.0f} for the fit, then {', '.join(seconds)} for the "
        "surgery with its evaluations. "
        f"Cost: {ratio:.0f} times fewer FLOPs than training on retain95 and the "
        "refusals from where the model began.\n\n"
        "Command: `python results/tofu_table.py --dir=DIR_OF_TOFU`; "
        f"{on_this_machine()}.\n"
    )


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dir", required=True, help="directory of TOFU's JSONL files")
    parser.add_argument("--workdir", default="runs/tofu_table")
    parser.add_argument("--seeds", default="0,1,2", help="of the surgery")
    parser.add_argument("--out", default=str(HERE / "tofu_table.md"))
    parser.add_argument("--note", default="", help="what to know of this table")
    arguments = parser.parse_args()
    text = table(*runs(arguments), arguments.seeds)
    if arguments.note:
        text += f"\n{arguments.note}\n"
    pathlib.Path(arguments.out).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
