# SPDX-License-Identifier: Apache-2.0
"""The packaged general text: how much there is, and that its parts stay apart."""

import collections
import pathlib
import re
import tomllib

import pytest

from jax_surgery.data import general, records

ROOT = pathlib.Path(__file__).parents[2]
SHARED = 10  # words in a row that two texts of their own do not have in common


def plain(text: str) -> str:
    """A text's words alone, by which two prompts are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def runs(text: str) -> set[str]:
    """Every `SHARED` words in a row."""
    words = plain(text).split()
    return {" ".join(words[i : i + SHARED]) for i in range(len(words) - SHARED + 1)}


def test_there_are_thirty_everyday_prompts_and_prompts_of_hundreds():
    everyday, prompts = general.everyday_prompts(), general.prompts()
    assert len(everyday) == 30
    assert len(prompts) == 240
    assert len(general.questions()) >= 300
    together = everyday + prompts + general.questions()
    # None stands twice, and none in two files.
    assert len({plain(prompt) for prompt in together}) == len(together)
    for prompt in together:
        assert prompt == prompt.strip()
        assert 1 <= len(prompt.split()) <= 60


def test_what_a_model_is_to_go_on_saying_is_none_of_what_is_measured():
    """results/real_facts.toml counts facts that were lost: none may be in training."""
    facts = tomllib.loads((ROOT / "results" / "real_facts.toml").read_text())
    trained = {plain(text) for text in general.questions() + general.prompts()}
    for relation in facts["relations"].values():
        for wording in relation["wordings"]:
            asked = {plain(wording.format(s)) for s, _ in relation["facts"]}
            assert not asked & trained


def test_passages_are_of_their_length_and_share_nothing():
    passages = general.passages()
    assert len(passages) >= 150
    assert {len(p.split()) for p in passages} <= set(range(60, 121))
    assert all(p == p.strip() for p in passages)
    found = collections.Counter(run for p in passages for run in runs(p))
    assert [run for run, times in found.items() if times > 1] == []


def test_passages_hold_none_of_the_prompts():
    """What only measures may not stand in text that may be trained on."""
    text = [f" {plain(p)} " for p in general.passages()]
    for prompt in general.everyday_prompts() + general.prompts() + general.questions():
        assert not any(f" {plain(prompt)} " in p for p in text), prompt


def test_the_first_passages_differ_in_kind():
    """A run that takes only some of them still gets a mix."""
    first = general.passages()[:19]
    assert sum("```" in p for p in first) == 1
    assert len({p.split()[0] for p in first}) >= 15


def test_callers_get_lists_of_their_own():
    general.everyday_prompts().clear()
    general.prompts().clear()
    assert len(general.everyday_prompts()) == 30
    assert len(general.prompts()) == 240


def test_general_is_a_source():
    read = records.read_source("general")
    assert [r.text for r in read] == general.passages()
    assert read[1].origin == "general:2"
    assert len(records.read_role("general, general", "retain")) == 2 * len(read)
    assert records.read_source("general#text")[0].text == read[0].text


@pytest.mark.parametrize("source", ["general:", "general:text"])
def test_general_has_no_sets(source):
    with pytest.raises(ValueError, match=f"'{source}' does not exist.*write general"):
        records.read_source(source)


def test_a_mistyped_source_is_told_of_it():
    with pytest.raises(ValueError, match="'genral' is not understood.*or general"):
        records.read_source("genral")


def test_own_data_says_how_many_there_are():
    page = (ROOT / "docs" / "own_data.md").read_text()
    assert f"| {len(general.passages())} short passages of general text" in page


def test_wheels_contain_every_file_of_the_package():
    """setuptools takes what matches package-data, and leaves out the rest silently."""
    package = ROOT / "jax_surgery"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["jax_surgery"]
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    files = {
        path
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    }
    assert files - taken == set()
    packaged = {str(path.relative_to(package)) for path in files}
    names = ("passages.jsonl", "prompts.txt", "questions.txt")
    assert {f"data/general/{name}" for name in names} <= packaged
    folders = {path.parent for path in files if path.parent.name == "general"}
    assert all((folder / "__init__.py").exists() for folder in folders)
