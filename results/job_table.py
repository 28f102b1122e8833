# SPDX-License-Identifier: Apache-2.0
"""A user's job on a real model by the plain command of the automatic mode, from start to end.

    python results/job_table.py --model=DIR --job=DIR --workdir=runs/job_table

takes forget.jsonl, update.jsonl and keep.jsonl of a folder, runs `python -m jax_surgery.main
--config=configs/automatic.py` on them in a process of its own, no field changed but model and
data, asks the model before and after the questions of the folder's measure.jsonl (rows with
`group`, `question`, `answer`, and for a choice `wrong`), in its chat template, and writes
results/job_table.md: how many replies hold the answer, how often the right answer is the
likeliest, other text, minutes, and the most memory that the process held. A finished run is
not repeated.

Hardware: 2 CPU cores, 16 minutes for 17 facts and 304 lines to keep.
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from paper_table import run_once
from real_table import CONTEXT, TEXT, ask, load, nats_of_text
from tables import markdown, on_this_machine

from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice, replies
from jax_surgery.models.model import Model

HERE = pathlib.Path(__file__).parent
ROLES = {"unlearn": "forget", "update": "update", "retain": "keep"}
SAID, CHOICE = "said", "likeliest of the answers"


def measure(model: Model, rows: list[dict]) -> dict[str, list[int]]:
    """[how many, of how many] by group and what is counted of it.

    Args:
      rows: of measure.jsonl, see the module.
    """
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def count(name: str, right: bool) -> None:
        found[name][0] += right
        found[name][1] += 1

    said = ask(model, [row["question"] for row in rows])
    for row, reply in zip(rows, said, strict=True):
        count(f"{row['group']}: {SAID}", replies.says(reply, row["answer"]))
    asked = tuple(
        Question(str(i), row["group"], "trained", row["question"],
                 (row["answer"], *row["wrong"]), 0)
        for i, row in enumerate(rows)
        if row.get("wrong")
    )  # fmt: skip
    if asked:
        answers = multiple_choice.answer(
            model, Probe("job", CONTEXT, asked, chat="always")
        )
        for question, right in zip(asked, answers.correct, strict=True):
            count(f"{question.group}: {CHOICE}", bool(right))
    return dict(found)


def run_job(model: str, job: pathlib.Path, folder: pathlib.Path) -> dict:
    """Runs the job; its measures before and after."""
    rows = [json.loads(line) for line in (job / "measure.jsonl").open()]
    texts = [f"--config.data.{r}={job / name}.jsonl" for r, name in ROLES.items()]
    config = HERE.parent / "configs" / "automatic.py"
    words = [f"--config={config}", f"--config.model={model}", *texts]
    words = ["-m", "jax_surgery.main", *words, f"--workdir={folder / 'run'}"]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.perf_counter()
    # In the folder of this process: the model's path may be relative to it.
    subprocess.run([sys.executable, *words], env=environment, check=True)
    minutes = (time.perf_counter() - began) / 60
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    entry: dict = {"minutes": minutes, "gib": most / 2**20}
    for name, source in (("before", model), ("after", str(folder / "run" / "model"))):
        of = load(source)
        entry[name] = measure(of, rows) | {TEXT: nats_of_text(of)}
    results = json.loads((folder / "run" / "results.json").read_text())
    return entry | {"automatic": results["automatic"]}


def table(entry: dict) -> str:
    """The table as Markdown."""
    of = lambda pair: f"{100 * pair[0] / pair[1]:.1f}"
    rows = [
        [name, of(pair), of(entry["after"][name]), str(pair[1])]
        for name, pair in entry["before"].items()
        if name != TEXT
    ]
    rows.append(
        [TEXT, *(f"{entry[when][TEXT]:.4f}" for when in ("before", "after")), ""]
    )
    return markdown(["%, unless it says so", "before", "after", "n"], rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--job", "--workdir"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    folder = pathlib.Path(given.workdir)
    job = pathlib.Path(given.job).resolve()
    entry = run_once(
        folder, lambda place: run_job(given.model, job, pathlib.Path(place).resolve())
    )
    automatic = entry["automatic"]
    text = (
        f"# A job on a real model by the plain command\n\n"
        f"{(__doc__ or '').split('and writes')[0]}and this is the table.\n\n"
        f"{table(entry)}\n{automatic['why']}\n\n{entry['minutes']:.1f} minutes, "
        f"{entry['gib']:.1f} GiB at most, {automatic['steps']} steps.\n\n{on_this_machine()}.\n"
    )
    (HERE / "job_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
