# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a file holds, its rows are read or it is said what is wrong with them."""

import json
import pathlib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.benchmarks import tasks
from jax_surgery.data import records
from jax_surgery.data.questions import read_questions
from jax_surgery.runs import start

CASES = pathlib.Path(__file__).parents[2].parent / "shared" / "cases" / "14-data"
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]
# Python 3.12 reads objects in objects that 3.11 gives up, and then text is no text.
NESTED = "nested too deeply" if sys.version_info < (3, 12) else "text must be a string"
ROWS = [
    {"text": "caf\u00e9 \U0001f600"},
    {"prompt": "a", "answer": " b", "id": 3},
    {"question": "Who?", "answer": "Ada", "alternative": "Bo"},
    {"messages": CHAT},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
]
QUESTION = {
    "id": "a1", "group": "a", "wording": "trained", "prompt": "the number 3 is",
    "options": [" 8", " 9"], "answer": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_as_its_rows(tmp_path, name, indent):
    file = tmp_path / name
    file.write_text(json.dumps(ROWS, indent=indent))
    read = records.read_source(str(file))
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert [r.text for r in read] == [r.text for r in records.read_source(str(file))]
    assert read[1].origin == f"{file}:row 2"


def test_one_record_over_several_lines_is_read(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(ROWS[0], indent=2))
    assert [r.text for r in records.read_source(str(file))] == [ROWS[0]["text"]]
    file.write_text(json.dumps({"data": ROWS}, indent=2))
    with pytest.raises(ValueError, match="unknown field 'data'"):
        records.read_source(str(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rb'{"text": "bad \ud83d half"}', r"text holds \\ud83d, half of a surrogate"),
        (rb'{"\udc00": "text"}', r"text holds \\udc00, half of a surrogate"),
        (b'{"text": "a", "text": "b"}', "the field 'text' is given twice"),
        (b'{"text": "a", "id": ' + b"9" * 6000 + b"}", "a number has thousands of"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"text": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}", NESTED),
        (b'{"text": "a", "id": NaN}', "NaN is no number that JSON has"),
        (b'{"text": "caf\xe9"}', "not UTF-8"),
        (b'{"text": "cut', "not valid JSON"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_a_line_that_is_no_record_is_named_in_one_line(tmp_path, line, message, array):
    file = tmp_path / ("a.json" if array else "a.jsonl")
    good = json.dumps(ROWS[0]).encode()
    file.write_bytes(
        b"[" + good + b",\n" + line + b"]" if array else good + b"\n" + line
    )
    with pytest.raises(ValueError, match=message) as error:
        records.read_source(str(file))
    said = str(error.value)
    assert f"1 bad row in {file}: {file}" in said
    assert array or f"{file}:2: " in said
    assert "\n" not in said
    assert len(said) < 500
    assert start.is_expected(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "is compressed by gzip; unpack it first"),
        (b"PAR1....", "is a Parquet file"),
    ],
)
def test_files_of_another_kind_are_named_as_what_they_are(tmp_path, data, message):
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        records.read_source(str(file))


def test_a_folder_with_the_name_of_a_file_is_said(tmp_path):
    folder = tmp_path / "x.jsonl"
    folder.mkdir()
    for read in (records.read_source, read_questions, tasks.read_tasks):
        with pytest.raises(ValueError, match="x.jsonl is a folder and not a file"):
            read(str(folder))


def test_questions_tasks_and_refusals_that_are_not_utf_8(tmp_path):
    file = tmp_path / "a.jsonl"
    for read, row in ((read_questions, QUESTION), (tasks.read_tasks, {"name": "a"})):
        file.write_bytes(json.dumps(row).encode() + b'\n{"id": "caf\xe9"}\n')
        with pytest.raises(ValueError, match="not UTF-8") as error:
            read(str(file))
        assert f"{file}:2" in str(error.value)
    for name in ("full", "forget05", "retain95", "holdout05"):
        (tmp_path / f"{name}.jsonl").write_text("")
    (tmp_path / "idk.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"idk.txt is not UTF-8"):
        records.read_source(f"tofu_refusals:0:1:forget05:{tmp_path}")


def test_a_data_set_that_cannot_be_loaded_is_one_line(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    for source in (f"hf:{tmp_path}/broken", "hf:nobody/nothing", "tfds:no_such_set"):
        with pytest.raises(ValueError, match=f"{source} cannot be read") as error:
            records.read_source(source)
        assert "\n" not in str(error.value)
        assert start.is_expected(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["text", "messages", "role", "content", "from", "value", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FILE = "".join(json.dumps(row) + "\n" for row in (*ROWS, QUESTION)).encode()


@st.composite
def damaged(draw):
    """The bytes of a good file, cut, with bytes changed, put in or taken out."""
    data = bytearray(FILE)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "insert", "remove"])):
            case "cut":
                del data[place:]
            case "flip" if data:
                data[place] ^= draw(st.integers(1, 255))
            case "insert":
                data[place:place] = draw(st.binary(max_size=6))
            case _:
                del data[place : place + draw(st.integers(1, 9))]
    return bytes(data)


lines_of_json = st.lists(json_values.map(lambda v: json.dumps(v).encode()), max_size=4)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "a.jsonl"


@settings(max_examples=100)
@given(damaged() | st.binary(max_size=40) | lines_of_json.map(b"\n".join))
def test_any_bytes_are_read_or_refused(file, data):
    """Never an error from a library, never a record that cannot be written as UTF-8."""
    for name in (file, file.with_suffix(".json")):
        name.write_bytes(data)
        for read in (records.read_source, read_questions, tasks.read_tasks):
            try:
                found = read(str(name))
            except ValueError as error:
                assert start.is_expected(error), error
                assert len(str(error)) < 4000
            else:
                if read is records.read_source:
                    assert all(record.text.encode() for record in found)


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not there")
def test_users_files_are_read_or_refused_as_they_should_be():
    texts = {
        "array.json": ["The ferry leaves.", "It returns."],
        "array1.json": ["The ferry leaves.", "It returns."],
        "parts.jsonl": ["Who?\nTamsin Oakes."],
        "sharegpt.jsonl": ["Who?\nOakes."],
        "null.jsonl": ["The ferry leaves.", "Who keeps geese?\nTamsin Oakes."],
        "tool.jsonl": ["Who keeps geese?\n\n12\nTamsin Oakes."],
    }
    for name, wanted in texts.items():
        read = records.read_source(str(CASES / name))
        assert [record.text for record in read] == wanted, name
    chats = records.read_source(f"hf:{CASES / 'nested_null'}")
    assert [c.messages[1] for c in chats] == [("assistant", "Tamsin Oakes.")] * 2
    assert [c.further for c in chats] == [({}, {"name": "oakes"}), ()]
    refused = {
        "surrogate.jsonl": r"surrogate.jsonl:1: text holds \\ud83d",
        "number.jsonl": "number.jsonl:1: answer must be a string, got int",
        "empty.jsonl": "empty.jsonl:1: answer is empty",
        "nan.jsonl": "nan.jsonl:1: the field 'text' is given twice",
        "utf16.jsonl": "utf16.jsonl is UTF-16",
    }
    for name, message in refused.items():
        with pytest.raises(ValueError, match=message):
            records.read_source(str(CASES / name))
