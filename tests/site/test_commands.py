# SPDX-License-Identifier: Apache-2.0
"""Blocks of commands in README.md and docs/: each says who ran it, and the runnable ones
are run, in one folder that has what they name.

A comment stands before a block, which the site turns into a line below it:

    <!-- runnable -->              here, as it stands
    <!-- runnable with: FLAGS -->  here, with flags that make it short
    <!-- was run: WHERE -->        elsewhere
    <!-- not run: WHY -->
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

from jax_surgery.benchmarks.embedded import Embedded, corpus
from jax_surgery.benchmarks.suite import Suite
from jax_surgery.data import records

TAKES_MINUTES = True  # by few tests; see conftest
ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<said>[^\n]+) -->\n)?^```(?P<kind>sh|python)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SAID = re.compile(r"(runnable)(?: with: (.+))?|(was run|not run): .+")
WORKDIR = re.compile(r"--workdir=(runs/\w+)")
# What several commands start from, and the block that makes it.
MADE = {
    "runs/u/edit.safetensors": "--workdir=runs/u\n",
    "runs/first/model": "--workdir=runs/first\n",
}
# Files of records: of questions of the embedded world, and of the suite's tasks.
FILES = {
    "forget.jsonl": "problematic",
    "new.jsonl": "update",
    "keep.jsonl": "retain",
    "a.jsonl": "retain",
    "b.jsonl": "general",
    "patient_17.jsonl": "people_a",
    "patients.jsonl": "people_b",
}
RECORDS = 8


class Block(NamedTuple):
    """Commands of a page, and the comment before them."""

    page: str
    kind: str
    said: str
    code: str

    @property
    def flags(self) -> str | None:
        """What is added to its commands; None where it is not run here."""
        found = SAID.fullmatch(self.said)
        return found[2] or "" if found and found[1] else None


def blocks(page: str, text: str) -> list[Block]:
    """The blocks of a page; those in Python that have no comment are only shown."""
    found = [
        Block(page, b["kind"], b["said"] or "", b["code"]) for b in BLOCK.finditer(text)
    ]
    return [
        block for block in found if block.kind == "sh" or SAID.fullmatch(block.said)
    ]


ALL = [b for page in PAGES for b in blocks(page.name, page.read_text())]
# The same commands on several pages are run once.
RUNNABLE = list({b.code: b for b in ALL if b.flags is not None}.values())


def test_every_block_says_who_ran_it():
    unsaid = [f"{b.page}: {b.code}" for b in ALL if not SAID.fullmatch(b.said)]
    assert not unsaid, "put a comment before it, see the docstring of this file"
    assert len(RUNNABLE) > 9


def test_a_block_without_a_word_is_seen():
    (block,) = blocks("p", "text\n\n```sh\nls\n```\n")
    assert not SAID.fullmatch(block.said) and block.flags is None
    short, long, far = (
        blocks("p", f"<!-- {said} -->\n```sh\nls\n```\n")[0].flags
        for said in ("runnable", "runnable with: --config.steps=1", "was run: there")
    )
    assert (short, long, far) == ("", "--config.steps=1", None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder like a clone, with the files, models and tasks that pages name."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "results", "jax_surgery"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("DIR", "NEVER_KNEW"):
        (folder / name).symlink_to(Suite.MODEL)
    (folder / "PATH_OR_HUB_NAME").symlink_to(Embedded.MODEL)
    for name, group in FILES.items():
        asked = [q for q in corpus.questions() if q.group == group]
        pairs = [(q.prompt, q.options[q.answer]) for q in asked]
        if not asked:
            pairs = [
                (r.prompt, r.answer) for r in records.read_source(f"suite:{group}")
            ]
        rows = [{"prompt": p, "answer": a} for p, a in pairs[:RECORDS]]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {"name": "patient_17", "data": "patient_17.jsonl", "family": "patients"},
        {"name": "other_patients", "data": "patients.jsonl", "family": "patients"},
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" $FLAGS\n')
    python.chmod(0o755)
    return folder


def _run(block: Block, place: pathlib.Path) -> None:
    # Several pages name the same workdirs, each of which belongs to one run.
    for workdir in WORKDIR.findall(block.code):
        shutil.rmtree(place / workdir, ignore_errors=True)
    for file, maker in MADE.items():
        if file in block.code and not (place / file).exists():
            _run(next(b for b in RUNNABLE if maker in b.code), place)
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    if block.kind == "python":
        command = [sys.executable, "-c", block.code]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "FLAGS": block.flags or "",
    }
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert not done.returncode, f"{block.code}\n{done.stdout}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda b: f"{b.page}:{b.code[-40:-1]}")
def test_runnable_blocks_run(block, place):
    if block.kind == "python":
        pytest.importorskip("torch")
    if "configs/plan.py" in block.code:
        pytest.importorskip("libtpu")
    _run(block, place)
