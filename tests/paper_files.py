# SPDX-License-Identifier: Apache-2.0
"""A small folder with the files that LLM Surgery's authors published, of their schema."""

import csv
import pathlib

from jax_surgery.benchmarks import paper

PERSONS = 8
SITES = 6
QUESTIONS = 4  # of a cell
TOWNS = ("oslo", "rome", "lima", "cairo", "kyoto", "quito", "delhi", "tunis")
TRADES = ("baker", "miner", "pilot", "tailor", "vet", "clerk", "smith", "judge")


def question(of: str, options, right: int, by_text: bool) -> dict[str, str]:
    """An entry of a cell; the right option by its name, or by its text."""
    entry = {"Q": of} | dict(zip(paper.OPTIONS, options, strict=True))
    entry["correct answer"] = options[right] if by_text else paper.OPTIONS[right]
    return entry


def cell(about: str, right: str, wrong) -> str:
    """A cell of questions, which all ask for the same."""
    asked = []
    for place in range(QUESTIONS):
        options = [*wrong[:2]]
        options.insert(place % 3, right)
        text = f"{about}, question {place + 1}?"
        asked.append(question(text, options, place % 3, by_text=place % 2 == 0))
    return repr(asked)


def save(file: pathlib.Path, rows) -> None:
    """A CSV file as pandas writes it, with the rows' numbers."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["", *rows[0]])
        writer.writeheader()
        writer.writerows({"": str(i)} | row for i, row in enumerate(rows))


def bios() -> list[dict[str, str]]:
    """A row for each person."""
    rows = []
    for i in range(PERSONS):
        town, trade = TOWNS[i], TRADES[i]
        rows.append(
            {
                "wiki_bio_text": f"Person {i}, a {trade}, was born in {town}.",
                "gpt4_bio_text": f"Person {i}, born in {TOWNS[i - 3]}, is a {TRADES[i - 2]}.",
                "wiki_bio_text_qa": cell(
                    f"Where was person {i} born", town, TOWNS[-2:]
                ),
                "gpt4_inaccurate_text_qa": cell(
                    f"What is person {i}", TRADES[i - 2], ("king", "monk")
                ),
            }
        )
    return rows


def write(folder: pathlib.Path) -> pathlib.Path:
    """The folder, with all of the files; the last towns are nobody's options twice."""
    rows = bios()
    for i in (6, 7):  # whose town would be a wrong option too
        rows[i]["wiki_bio_text_qa"] = cell(
            f"Where was person {i} born", TOWNS[i], TOWNS[:2]
        )
    save(folder / paper.BIOS, rows)
    names = [f"Person Number {i}" for i in range(PERSONS)]
    (folder / paper.CONCEPTS).write_text("\n".join(names) + "\n")
    text = lambda i: f'site {i} sells {TRADES[i]}s\' tools,\nand "more" in {TOWNS[i]}.'
    save(folder / paper.TEXTS, [{"text": text(i)} for i in range(SITES)])
    asked = [
        cell(f"Who buys at site {i}", TRADES[i], ("kings", "monks"))
        for i in range(SITES)
    ]
    save(
        folder / paper.QUESTIONS,
        [{"text": text(i), "qa": asked[i]} for i in range(SITES)],
    )
    choices = {"text": ["ice", "fire", "sand", "wood"], "label": ["A", "B", "C", "D"]}
    arc = {"question": "What is cold?", "choices": repr(choices), "answerKey": "A"}
    save(folder / paper.ARC.format(split="test"), [arc])
    return folder
