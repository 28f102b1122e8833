# SPDX-License-Identifier: Apache-2.0
"""Parts of the tables of results/, as pages show them; and where each of them was run."""

import pathlib
import re
from collections.abc import Mapping

from plugin_tables import table

RESULTS = pathlib.Path(__file__).parents[2] / "results"
# Where a table was run, by the first of these that its page says. GPU and compiler come
# first: such runs also name the processor that drove or compiled them.
PLACES = (
    ("only compiled for TPUs, on CPU cores", r"compiled and not run|compiled, not run"),
    ("run on a GPU", r"on one (NVIDIA \w+)"),
    ("run on a CPU", r"(\d+ CPU cores|\d+ cores|\d+ cpu devices?)"),
)
UNSAID = "run on a CPU; its page names no machine"


def rows(name: str) -> dict[str, list[list[str]]]:
    """The tables of a page of results/ by the heading above, as lists of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (RESULTS / name).read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith(("|--", "| --")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(heading, []).append(cells)
    return found


def place(text: str) -> str:
    """Where a page's figures come from, as it says itself."""
    for said, pattern in PLACES:
        if found := re.search(pattern, text):
            return f"{said}: {found[1]}" if found.groups() else said
    return UNSAID


def where() -> str:
    """Of each table of results/ where it was run."""
    pages = sorted(RESULTS.glob("*.md"))
    lines = []
    for page in pages:
        text = page.read_text()
        title = text.partition("\n")[0].lstrip("# ")
        command = re.search(r"python (?:-m )?results[/.][^`\n]+", text)
        shown = f"`{command[0].strip()}`" if command else ""
        link = f"[{title}](../results/{page.name})"
        lines.append((place(text), link, shown))
    return table(("where", "what", "command"), sorted(lines))


REAL = {  # rows of results/real_table.md, as they are called, and what is asked for
    "forget, trained": ("facts to forget: said, trained wordings", "at most 5"),
    "forget, unseen": ("the same, unseen wordings", "at most 5"),
    "choice of four": ("the same: above three wrong answers (chance 25)", "25 ± 15"),
    "update, trained": ("new facts: said, trained wordings", "at least 95"),
    "update, unseen": ("the same, unseen wordings", "at least 80"),
    "other facts": (
        "other facts that it knew and no retained text tells: still said",
        "at least 95",
    ),
    "other facts: how many": ("how many these are", ""),
    "other facts that the model's own retained text tells": (
        "other facts that the model wrote into its retained text: still said",
        "at least 95",
    ),
    "related facts": (
        "facts that share a subject or an answer with a forgotten one",
        "",
    ),
    "kept lines": ("the lines to keep: still said", ""),
    "replies with a new answer that is not theirs": (
        "replies with a new answer that is not theirs",
        "0",
    ),
    "everyday replies that degenerate": ("everyday replies that degenerate", "0"),
    "other text, nats per token": ("other text, nats per token", "+ 0.01 at most"),
    "minutes": (
        "minutes beside other runs, with both measures and without the text it writes",
        "",
    ),
}


def real() -> str:
    """results/real_table.md with what was asked for."""
    (lines,) = rows("real_table.md").values()
    found = {line[0]: line[1:] for line in lines}
    heads = ("%", *found["% unless it says so"], "asked for")
    return table(
        heads,
        [
            (label, *(cell.replace("->", "→") for cell in found[name]), asked)
            for name, (label, asked) in REAL.items()
        ],
    )


def relearning(steps: int = 20) -> str:
    """results/relearn_table.md after so many steps at the smaller rate, by task."""
    pages = rows("relearn_table.md")
    tasks: Mapping[str, str] = {
        "people_a": "people_a",
        "dict_a": "dict_a",
        "capital": "capital (reserved)",
        "next": "next (reserved)",
        "add": "add (a rule)",
        "reverse": "reverse (a rule)",
    }
    modes = {
        "rounds": "default",
        "copies": "`harden=6`",
        "copies, overwritten": "and `overwrite=1`, `rounds.step=0.01`",
        "never knew": "a model that never knew",
    }
    of_task = {}
    for task in tasks:
        name = next(title for title in pages if title.partition(" ")[0] == task)
        head, *lines = pages[name]
        at = [int(n) for n in re.findall(r"\d+", head[1].partition(":")[2])]
        column = at.index(steps)
        of_task[task] = {line[0]: line[1].split()[column] for line in lines}
    return table(
        ("", *tasks.values()),
        [(said, *(of_task[t][mode] for t in tasks)) for mode, said in modes.items()],
    )


def gpu() -> str:
    """The product's own rows of results/gpu_speed.md."""
    lines = []
    for title, cells in rows("gpu_speed.md").items():
        if cells[0][:2] == ["program", "useful tokens a second"]:
            line = next(line for line in cells if line[0] == "ours")
            model = title.replace(" move", "").replace(
                "low-rank deltas of rank 16 on a frozen base",
                "`lora.rank=16`, `accumulate=4`",
            )
            lines.append((model, *line[1:4], f"{line[4]} %"))
    heads = (
        "model",
        "useful tokens a second",
        "PyTorch, padded = 1",
        "PyTorch, packed by hand and compiled = 1",
        "MFU",
    )
    return table(heads, lines)
