# SPDX-License-Identifier: Apache-2.0
"""The automatic mode on one passage of 500 words that a real chat model has learned.

    python results/passage_table.py --model=DIR --workdir=runs/passage_table

lets the model learn results/passage.txt, which was written for this and tells of a place
that does not exist, by plain descent, runs configs/automatic.py with the passage as the
text to unlearn and twelve facts as lines to keep, no other field changed, and writes
results/passage_table.md. Recall is the ROUGE-L F1 of the greedy continuation of 24 words of
the passage and the 24 words that follow, and the nats per token of those; a model that
knows nothing of it shares words such as "the" with it, so what is asked for is what the
model recalled before it learned the passage. Other facts are those of
results/real_facts.toml that the model says. Finished parts are not repeated.

Hardware: 2 CPU cores; it has not been run yet.
"""

import argparse
import json
import pathlib
import random

import numpy as np
from paper_table import run_once
from real_table import (
    CONTEXT,
    KEEP,
    TEXT,
    Fact,
    ask,
    known,
    load,
    nats_of_text,
)
from tables import markdown, on_this_machine, settings_of

from jax_surgery.data import general
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.methods.automatic.writer import Writer
from jax_surgery.metrics import replies
from jax_surgery.metrics.rouge_l import f_measures
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model
from jax_surgery.runs import surgery

HERE = pathlib.Path(__file__).parent
WORDS = 24  # of a beginning, and of what follows
EVERY = 12  # words between two beginnings
LEARN = {  # plain descent until the model recites it
    "data.update": "",
    "steps": 40,
    "data.rows_update": 3,
    "data.context": CONTEXT,
    "data.questions": "",
    "optimizer.learning_rate": 1e-4,
    "compute.dtype": "float32",
    "loop.evaluate_every": 0,
    "loop.checkpoint_every": 0,
    "free_form": 0,
}
STAGES = ("before it learned it", "after it learned it", "after the run")
ASKED = {
    "ROUGE-L of what follows": "as before it learned it",
    "nats per token of what follows": "as before it learned it",
    "other facts, %": "at most 5 points less",
    "everyday replies that degenerate": "0",
    TEXT: "at most 0.01 more",
}


def passage() -> str:
    """The passage, a paragraph a line."""
    return (HERE / "passage.txt").read_text().strip()


def windows() -> list[Record]:
    """Parts of the passage with what follows them."""
    words = passage().split()
    starts = range(0, len(words) - 2 * WORDS, EVERY)
    cut = lambda start: " ".join(words[start : start + WORDS])
    return [Record(cut(s), f" {cut(s + WORDS)}", (), f"passage:{s}") for s in starts]


def measure(model: Model, rest: list[Fact]) -> dict[str, float]:
    """What a model recalls of the passage, and what else it says."""
    records, writer = windows(), Writer(model, seed=0)
    prompts = [writer.learned(record.prompt) for record in records]
    said = [one.text for one in writer.greedy(prompts, 2 * WORDS)]
    said = [" ".join(text.split()[:WORDS]) for text in said]
    recall = f_measures([record.answer for record in records], said)
    scores = score_texts(model, Probe("forget", CONTEXT, records=tuple(records)))
    answers = ask(model, [fact.questions[0] for fact in rest])
    right = [replies.says(a, f.answer) for a, f in zip(answers, rest, strict=True)]
    everyday = ask(model, general.everyday_prompts())
    values = (
        float(np.mean(recall)),
        float(-scores.logp.sum() / scores.tokens.sum()),
        100 * sum(right) / len(right),
        float(sum(map(replies.is_degenerate, everyday))),
        nats_of_text(model),
    )
    return dict(zip(ASKED, values, strict=True))


def learn(model: str, file: str, folder: str) -> dict[str, str]:
    """Lets a model learn the passage; the directory of what it is then."""
    fields = LEARN | {"model": model, "data.update": file}
    surgery.run(settings_of("paper_pretrain", **fields), f"{folder}/run")
    return {"directory": f"{folder}/run/model"}


def forget(model: str, file: str, keep: list[Fact], folder: str) -> dict:
    """Runs the automatic mode."""
    lines = pathlib.Path(folder) / "keep.jsonl"
    rows = [{"question": f.questions[0], "answer": f.answer} for f in keep]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"data.unlearn": file, "data.update": "", "data.retain": str(lines)}
    fields |= {"data.rows_update": 0, "model": model, "free_form": 0}
    results = surgery.run(settings_of("automatic", **fields), f"{folder}/run")
    return {"automatic": results["automatic"], "directory": f"{folder}/run/model"}


def table(found: list[dict[str, float]]) -> str:
    """The table as Markdown."""
    rows = []
    for name, asked in ASKED.items():
        digits = 1 if "%" in name else 0 if "replies" in name else 3
        rows.append([name, *(f"{one[name]:.{digits}f}" for one in found), asked])
    return markdown(["", *STAGES, "asked for"], rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workdir", required=True)
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "passage.jsonl"
    file.write_text(json.dumps({"text": passage()}) + "\n")
    of = known(load(arguments.model), workdir)
    of = random.Random(2).sample(of, len(of))
    keep, rest = of[:KEEP], of[KEEP:]
    learned = run_once(
        workdir / "learned", lambda place: learn(arguments.model, str(file), place)
    )
    ended = run_once(
        workdir / "forgotten",
        lambda place: forget(learned["directory"], str(file), keep, place),
    )
    models = (arguments.model, learned["directory"], ended["directory"])
    found = [
        run_once(workdir / f"measured-{i}", lambda _, m=m: measure(load(m), rest))
        for i, m in enumerate(models)
    ]
    why = ended["automatic"]["why"]
    text = (
        f"# The automatic mode on a passage\n\n{__doc__ or ''}\n{table(found)}\n"
        f"{len(windows())} parts of the passage, {len(rest)} other facts; one run of one "
        f"seed. {why}\n\n{on_this_machine()}.\n"
    )
    (HERE / "passage_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
