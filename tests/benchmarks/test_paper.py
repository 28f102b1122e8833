# SPDX-License-Identifier: Apache-2.0
"""The published files of LLM Surgery: their sets, splits, and what is malformed in them."""

import csv

import paper_files
import pytest

from jax_surgery import benchmarks
from jax_surgery.benchmarks import paper
from jax_surgery.data import records
from jax_surgery.runs import asked

WRONG = {"correct answer": "d"}


@pytest.fixture
def folder(tmp_path):
    return paper_files.write(tmp_path)


def change(file, row, column, value):
    """Another value of a cell."""
    with file.open(newline="") as read:
        rows = list(csv.DictReader(read))
    rows[row][column] = value
    paper_files.save(file, [{k: v for k, v in r.items() if k} for r in rows])


def texts(folder, name):
    return [r.text for r in records.read_source(f"paper:{name}:{folder}")]


def test_the_four_streams_are_those_of_the_authors_code(folder):
    half = paper_files.PERSONS // 2
    obsolete, problematic = texts(folder, "obsolete"), texts(folder, "problematic")
    assert len(obsolete) == len(problematic) == half
    assert obsolete[0] == (
        "This is a Wikipedia passage about Person Number 0. "
        "Person 0, a baker, was born in oslo."
    )
    assert problematic[0].startswith(
        "This is a Wikipedia passage about Person Number 4. "
    )
    update = texts(folder, "update")
    assert len(update) == half and "Person Number 3. Person 3, born in" in update[-1]
    retained = texts(folder, "retain")
    assert len(retained) == paper_files.SITES
    assert retained[1] == 'site 1 sells miners\' tools,\nand "more" in rome.'


def test_rows_that_the_authors_drop_are_left_out(folder):
    rows = [{"text": f"page {i}"} for i in range(paper.RETAINED + 5)]
    paper_files.save(folder / paper.TEXTS, rows)
    found = texts(folder, "retain")
    assert len(found) == paper.RETAINED - len(paper.DROPPED) == 2002
    assert "page 11" not in found and "page 12" in found and "page 2079" not in found


def test_splits_are_those_of_sklearn():
    """train_test_split(range(n), test_size=0.5, random_state=42), as sklearn 1.5 has it."""
    assert paper.in_split(10, "test") == [8, 1, 5, 0, 7]
    assert paper.in_split(10, "validation") == [2, 9, 4, 3, 6]
    assert sorted(paper.in_split(5, "test") + paper.in_split(5, "validation")) == [
        *range(5)
    ]
    assert len(paper.in_split(5, "test")) == 3


def test_half_of_each_cell_is_asked_by_perplexity_of_three_options(folder):
    test = paper.questions_of(str(folder), "problematic", "test")
    other = paper.questions_of(str(folder), "problematic", "validation")
    half = paper_files.PERSONS // 2 * paper_files.QUESTIONS // 2
    assert len(test) == len(other) == half
    assert not {q.id for q in test} & {q.id for q in other}
    for question in (*test, *other):
        person = int(question.id.split("-")[1]) - 1
        assert question.options[question.answer] == f" {paper_files.TOWNS[person]}"
        assert (len(question.options), question.scoring) == (3, "perplexity")
    probes = benchmarks.parse(f"paper:dir={folder}").probes(64)
    assert [p.group for p in probes] == [*paper.ROLES, "general"]
    assert probes[0].chance == pytest.approx(1 / 3) and probes[-1].chance == 0.25
    roles = asked.roles_of(f"paper:dir={folder}", probes[0].questions)
    assert roles == {"problematic": "unlearn"}


@pytest.mark.parametrize(
    "value, words",
    [
        ("", "row 5, wiki_bio_text_qa is no Python literal"),
        ("[{'Q': 'who?', 'option1': 'a'}", "is no Python literal"),
        ("{}", "is no list of questions"),
        ("[{'Q': 'who?'}]", "row 5, .*, question 1 has no text for 'option1'"),
        (
            repr([paper_files.question("w", ("a", "b", "c"), 0, False) | WRONG]),
            "names 'd', which is no option",
        ),
        (
            repr([paper_files.question("w", ("a", "a", "c"), 0, False)]),
            "two equal options",
        ),
        ("__import__('os').getcwd()", "is no Python literal"),
    ],
)
def test_a_malformed_cell_is_counted_and_reported(folder, value, words):
    whole = len(paper.questions_of(str(folder), "obsolete", "test"))
    change(folder / paper.BIOS, 4, "wiki_bio_text_qa", value)
    with pytest.warns(UserWarning, match=f"1 of 13 cells and questions .*{words}"):
        found = paper.questions_of(str(folder), "problematic", "test")
    assert len(found) == whole - paper_files.QUESTIONS // 2


def test_an_empty_text_is_counted_and_keeps_its_neighbours_names(folder):
    change(folder / paper.BIOS, 4, "wiki_bio_text", " ")
    with pytest.warns(
        UserWarning, match=r"1 of 4 texts of problematic .*row 5, wiki_bio"
    ):
        found = texts(folder, "problematic")
    assert len(found) == 3 and "about Person Number 5. Person 5," in found[0]


def test_files_that_are_not_there_or_not_theirs_are_named(folder):
    (folder / paper.TEXTS).write_text("title\nnone\n")
    with pytest.raises(ValueError, match="has no column 'text'; it has title"):
        texts(folder, "retain")
    (folder / paper.TEXTS).unlink()
    with pytest.raises(
        FileNotFoundError, match="lacks openwebtext-10k.csv; config.data"
    ):
        texts(folder, "retain")
    (folder / paper.CONCEPTS).write_text("One Person\n")
    with pytest.raises(ValueError, match="has 1 names, and .* a row 2"):
        texts(folder, "obsolete")
    with pytest.raises(ValueError, match="choose one of problematic, obsolete"):
        texts(folder, "pro")
    for row in range(paper_files.PERSONS):
        change(folder / paper.BIOS, row, "gpt4_inaccurate_text_qa", "[")
    with (
        pytest.warns(UserWarning, match="4 of 4 cells"),
        pytest.raises(ValueError, match="no question about update is well formed"),
    ):
        paper.questions_of(str(folder), "update", "test")
