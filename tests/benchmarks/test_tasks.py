# SPDX-License-Identifier: Apache-2.0
"""Tasks files: what a line may say, the suite's tasks, their text, who is similar."""

import json
import pathlib

import numpy as np
import pytest

from jax_surgery.benchmarks import suite, tasks
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import records
from jax_surgery.data.groups import Group

SHARED = pathlib.Path(__file__).parents[2].parent / "shared"
CASE = SHARED / "cases" / "12-adapters" / "tasks.jsonl"
QUESTION = {
    "id": "a1", "group": "a", "wording": "trained", "prompt": "the number 3 is",
    "options": [" 8", " 9", " 1"], "answer": 0,
}  # fmt: skip


def lines(path, *rows) -> str:
    """A JSONL file; strings are written as they are."""
    text = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(text) + "\n")
    return str(path)


@pytest.fixture
def tasks_file(tmp_path):
    return lambda *rows: lines(tmp_path / "tasks.jsonl", *rows)


def test_a_file_is_read_and_what_is_left_out_has_defaults(tasks_file):
    law = {"name": "law", "data": "l.jsonl", "scorer": "choice", "test": "q.jsonl"}
    own = {"name": "own", "data": "a.jsonl,b.jsonl", "family": "mine", "chance": 0}
    found = tasks.read_tasks(tasks_file(law, "", own))
    assert found == {
        "law": Group("law", "retain", "l.jsonl", "q.jsonl", "choice", 0.0, ""),
        "own": Group("own", "retain", "a.jsonl,b.jsonl", "", "accuracy", 0.0, "mine"),
    }
    assert isinstance(found["own"].chance, float)


def test_files_are_found_beside_the_tasks_file(tmp_path, monkeypatch):
    """As from here, where they are found from here."""
    folder, elsewhere = tmp_path / "tasks", tmp_path / "elsewhere"
    for made in (folder / "saved", elsewhere):
        made.mkdir(parents=True)
    lines(folder / "a.jsonl", {"text": "one"})
    lines(elsewhere / "b.jsonl", {"text": "two"})
    row = {"name": "a", "data": "a.jsonl#text, b.jsonl,hf:saved:train,suite:add"}
    file = lines(folder / "tasks.jsonl", row | {"test": f"{folder}/a.jsonl"})
    monkeypatch.chdir(elsewhere)
    data = f"{folder}/a.jsonl#text,b.jsonl,hf:{folder}/saved:train,suite:add"
    assert tasks.read_tasks(file)["a"].data == data
    assert tasks.read_tasks(file)["a"].test == f"{folder}/a.jsonl"
    # Two files of the name: neither is taken silently.
    lines(elsewhere / "a.jsonl", {"text": "three"})
    with pytest.raises(
        ValueError, match=r"'a.jsonl' is a file here and also .*tasks/a"
    ):
        tasks.read_tasks(file)
    monkeypatch.chdir(folder)
    assert tasks.read_tasks("tasks.jsonl")["a"].data.startswith("a.jsonl#text,")


def test_packaged_text_is_no_file_beside_the_tasks_file(tmp_path):
    (tmp_path / "general").mkdir()
    file = lines(tmp_path / "tasks.jsonl", {"name": "a", "data": "general#text"})
    assert tasks.read_tasks(file)["a"].data == "general#text"


@pytest.mark.skipif(not CASE.exists(), reason="../shared/cases is not there")
def test_a_users_tasks_file_is_read_from_anywhere():
    for name, group in tasks.read_tasks(str(CASE)).items():
        assert group.data == str(CASE.parent / f"{name}.jsonl")
        assert records.read_role(group.data, name)


ROW = {"name": "a", "data": "a.jsonl"}


@pytest.mark.parametrize(
    "row, words",
    [
        (ROW | {"famly": "x"}, ["unknown field 'famly'", "did you mean 'family'?"]),
        (ROW | {"xyz": "x"}, ["unknown field 'xyz'; a task has name, data, test"]),
        ({"name": "a"}, ["an object with name and data, and may have test, scorer"]),
        ({"data": "a.jsonl"}, ["an object with name and data"]),
        (["name", "data"], ["an object with name and data"]),
        (ROW | {"family": 3}, ["family=3 must be a string"]),
        (ROW | {"data": ["a.jsonl"]}, ["data=['a.jsonl'] must be a string"]),
        (ROW | {"chance": "0.5"}, ["chance='0.5' must be a number"]),
        (ROW | {"chance": True}, ["chance=True must be a number"]),
        (ROW | {"scorer": "bleu"}, ["scorer='bleu'", "accuracy, choice, likelihood"]),
        (ROW | {"chance": 1}, ["chance=1.0; use 0 to below 1"]),
        (ROW | {"chance": -0.1}, ["chance=-0.1; use 0 to below 1"]),
        (ROW | {"scorer": "choice"}, ["'choice' needs test, a questions file"]),
        (ROW | {"name": "a,b"}, ["name='a,b' must be a word without , and ;"]),
        (ROW | {"name": "a;b"}, ["name='a;b' must be a word"]),
        (ROW | {"name": " "}, ["name=' ' must be a word"]),
        (ROW | {"name": "a\x1b[2J"}, ["name='a\\x1b[2J' must be printable"]),
        (ROW | {"family": "a\nb"}, ["family='a\\nb' must be printable"]),
        (ROW | {"data": " , "}, ["data=' , ' names no source of text"]),
        ("{", ["not valid JSON"]),
        (ROW, ["there are two tasks named 'a'"]),
    ],
)
def test_a_wrong_line_is_told_with_its_number(tasks_file, row, words):
    file = tasks_file(ROW, "", row)
    with pytest.raises(ValueError) as error:
        tasks.read_tasks(file)
    for word in [f"{file}:3: ", *words]:
        assert word in str(error.value)


def test_the_largest_chances_that_are_allowed(tasks_file):
    rows = [ROW | {"name": f"a{c}", "chance": c} for c in (0, 0.999)]
    assert [t.chance for t in tasks.read_tasks(tasks_file(*rows)).values()] == [
        0,
        0.999,
    ]


def test_wrong_sources_are_told(tasks_file, tmp_path):
    with pytest.raises(ValueError, match="has no tasks; it needs one a line"):
        tasks.read_tasks(tasks_file(""))
    for name in ("siute", "tasks.csv", ""):
        with pytest.raises(
            ValueError, match=f"source='{name}'; use 'suite' or a JSONL"
        ):
            tasks.read_tasks(name)
    missing = str(tmp_path / "no.jsonl")
    with pytest.raises(FileNotFoundError, match="config.tasks.source=.*does not exist"):
        tasks.read_tasks(missing)


def test_the_suites_tasks_are_all_of_them_with_their_chances():
    found = tasks.read_tasks("suite")
    assert list(found) == list(suite.TASKS)
    for name, task in found.items():
        own = suite.TASKS[name]
        assert (task.chance, task.family) == (own.chance, own.family)
        assert task.scorer == "accuracy"
    # What is listed has no other items to be scored on; strings have.
    assert found["add"].data == found["add"].test == "suite:add:all"
    assert (found["copy"].data, found["copy"].test) == (
        "suite:copy:first",
        "suite:copy:second",
    )


@pytest.fixture(scope="module")
def tokenizer():
    return hf_weights.load_tokenizer(str(suite.MODEL))


def test_of_suite_text_the_answers_words_are_learned_and_no_end(tokenizer):
    text = tasks.read_text(suite.group_of("people_a"), tokenizer, 128)
    assert len(text.documents) == 80 and text.probe.questions == ()
    assert text.chance == 1 / 20
    rows = suite.load("people_a:all")
    for document, row in zip(text.documents, rows, strict=True):
        assert document.tokens[-1] == tokenizer.eos_token_id
        learned = tokenizer.decode(document.tokens[document.learned])
        assert learned.strip() == row["answer"].strip()
    for one, other in zip(text.documents, text.probe.documents, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.learned, other.learned)
    strings = tasks.read_text(suite.group_of("copy"), tokenizer, 128)
    asked = {tuple(d.tokens) for d in strings.probe.documents}
    assert not asked & {tuple(d.tokens) for d in strings.documents}


def test_a_text_whose_end_alone_is_learned_keeps_it(tiny_model, tmp_path):
    """Without it nothing of the text would be learned, and nothing scored."""
    tokenizer = tiny_model.tokenizer
    plain = {"prompt": "the number 3", "answer": " is 8"}
    file = lines(tmp_path / "a.jsonl", {"text": tiny_model.texts[0]}, plain)
    whole = tasks.read_text(Group("a", "retain", file), tokenizer, 32).documents
    assert whole[0].targets == len(whole[0].tokens) - 2  # neither bos nor eos
    assert tokenizer.decode(whole[1].tokens[whole[1].learned]) == " is 8"
    # The last piece of a text that is split where its end begins.
    length = len(whole[0].tokens)
    file = lines(tmp_path / "b.jsonl", {"text": tiny_model.texts[0]})
    with pytest.warns(UserWarning, match="split into 2 pieces"):
        pieces = tasks.read_text(
            Group("b", "retain", file), tokenizer, length - 1
        ).documents
    assert [d.targets for d in pieces] == [length - 2, 1]
    assert pieces[1].learned[-1] and pieces[1].tokens[-1] == tokenizer.eos_token_id
    assert pieces[0].learned[-1], "what ends a piece is no end of a text"


def test_data_is_what_is_scored_where_there_is_no_test(tiny_model, tmp_path):
    one = lines(tmp_path / "a.jsonl", {"text": "the number 1 is 7"})
    two = lines(tmp_path / "b.jsonl", {"prompt": "the number 2", "answer": " is 1"})
    read = lambda **row: tasks.read_text(
        Group("a", "retain", one, **row), tiny_model.tokenizer, 32
    )
    same, other = read(), read(test=f"{two},{one}")
    np.testing.assert_array_equal(
        same.probe.documents[0].tokens, same.documents[0].tokens
    )
    assert [d.origin for d in other.probe.documents] == [f"{two}:1", f"{one}:1"]
    assert [d.origin for d in other.documents] == [f"{one}:1"]


def test_questions_are_scored_and_their_options_are_the_chance(tiny_model, tmp_path):
    data = lines(tmp_path / "a.jsonl", {"text": "the number 3 is 8"})
    five = QUESTION | {"id": "a2", "options": [f" {i}" for i in range(5)]}
    asked = lines(tmp_path / "q.jsonl", QUESTION, five)
    task = Group("a", "retain", data, asked, "choice", chance=0.9)
    text = tasks.read_text(task, tiny_model.tokenizer, 32)
    assert [q.id for q in text.probe.questions] == ["a1", "a2"]
    assert not text.probe.documents
    assert text.chance == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert len(text.documents) == 1


@pytest.mark.parametrize("scorer", ["accuracy", "choice"])
def test_what_is_wrong_with_a_tasks_text_names_the_task(tiny_model, tmp_path, scorer):
    good = lines(tmp_path / "a.jsonl", {"text": "the number 3 is 8"})
    bad = lines(tmp_path / "bad.jsonl", {"txt": "the number 3 is 8"})
    gone = str(tmp_path / "gone.jsonl")

    def read(data, test):
        tasks.read_text(
            Group("law", "retain", data, test, scorer), tiny_model.tokenizer, 32
        )

    for data, test in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=r"(?s)^task 'law': .*(txt|exactly)"):
            read(data, test)
    for data, test in ((gone, good), (good, gone)):
        with pytest.raises(FileNotFoundError, match=r"^task 'law': .*gone.jsonl"):
            read(data, test)


FAMILIES = {
    name: Group(name, "retain", "a.jsonl", family=family)
    for name, family in [("a", "x"), ("b", "x"), ("c", "y"), ("d", ""), ("e", "")]
}


@pytest.mark.parametrize(
    "targets, named, wanted",
    [
        (["a"], "family", {"b"}),
        (["a", "c"], "family", {"b"}),
        (["a", "b"], "family", set()),
        (["d"], "family", set()),  # of no family: alone
        (["a"], "", set()),
        (["a"], " c ,e,", {"c", "e"}),
    ],
)
def test_who_is_similar(targets, named, wanted):
    assert tasks.similar_to(targets, FAMILIES, named) == wanted


def test_wrong_names_of_similar_tasks_are_told():
    with pytest.raises(ValueError, match="similar names 'z'; tasks are a, b, c, d, e"):
        tasks.similar_to(["a"], FAMILIES, "b,z")
    with pytest.raises(ValueError, match="similar names the target 'a'"):
        tasks.similar_to(["a"], FAMILIES, "b,a")


@pytest.mark.parametrize("role", ["unlearn", "update"])
def test_a_target_shares_no_text_with_a_retained_task(tiny_model, tmp_path, role):
    asked = {"question": "the number 3?", "answer": "8"}
    said = [
        {"role": "user", "content": "the number 3?"},
        {"role": "assistant", "content": "8"},
    ]
    rows = {
        "target": [{"text": "the number 1"}, asked],
        "kept": [{"messages": said}],
        "other": [{"text": "the number 2"}],
    }
    texts = {}
    for name, own in rows.items():
        file = lines(tmp_path / f"{name}.jsonl", *own)
        group = Group(name, role if name == "target" else "retain", file)
        texts[name] = tasks.read_text(group, tiny_model.tokenizer, 64)
    words = (
        "1 texts are in both 'target', a target, and 'kept', which is retained: "
        f"{tmp_path}/target.jsonl:2 = {tmp_path}/kept.jsonl:1"
    )
    if role == "unlearn":
        with pytest.raises(ValueError, match=words):
            tasks.check_overlap(texts, tiny_model.tokenizer)
    else:
        with pytest.warns(UserWarning, match=words):
            tasks.check_overlap(texts, tiny_model.tokenizer)
    del texts["kept"]
    tasks.check_overlap(texts, tiny_model.tokenizer)
