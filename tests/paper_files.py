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
    """A cell of questions, which all go on as the text does."""
    asked = []
    for place in range(QUESTIONS):
        options = [*wrong[:2]]
        options.insert(place % 3, right)
        asked.append(question(about, options, place % 3, by_text=place % 2 == 0))
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
        others = TOWNS[i - 3], TOWNS[i - 4]
        header = paper.HEADER.format(name=f"Person Number {i}", text="")
        rows.append(
            {
                "wiki_bio_text": f"Person {i}, a {trade}, was born in {town}.",
                "gpt4_bio_text": f"Person {i}, born in {TOWNS[i - 3]}, is a {TRADES[i - 2]}.",
                "wiki_bio_text_qa": cell(
                    f"{header}Person {i}, a {trade}, was born in", town, others
                ),
                "gpt4_inaccurate_text_qa": cell(
                    f"{header}Person {i}, born in {TOWNS[i - 3]}, is a",
                    TRADES[i - 2],
                    (trade, TRADES[i - 4]),
                ),
            }
        )
    return rows


def write(folder: pathlib.Path) -> pathlib.Path:
    """The folder, with all of the files."""
    save(folder / paper.BIOS, bios())
    names = [f"Person Number {i}" for i in range(PERSONS)]
    (folder / paper.CONCEPTS).write_text("\n".join(names) + "\n")
    text = lambda i: f'site {i} sells {TRADES[i]}s\' tools,\nand "more" in {TOWNS[i]}.'
    save(folder / paper.TEXTS, [{"text": text(i)} for i in range(SITES)])
    asked = [
        cell(
            f"site {i} sells",
            f"{TRADES[i]}s'",
            (f"{TRADES[i - 1]}s'", f"{TRADES[i - 2]}s'"),
        )
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
