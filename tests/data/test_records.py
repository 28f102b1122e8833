# SPDX-License-Identifier: Apache-2.0
"""Records: their forms, and errors that name file, line, field and fix."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_surgery.benchmarks  # noqa: F401, makes embedded:NAME readable
from jax_surgery.data import records
from jax_surgery.data.forms import FIELDS, normalised, parse_record

words = st.text(min_size=1, max_size=30).filter(str.strip)


def write(path, *lines):
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return str(path)


@given(words, words)
def test_each_form_says_what_is_learned(a, b):
    assert parse_record({"text": a}, "f:1").answer == a
    pair = parse_record({"prompt": a, "answer": b, "id": 7}, "f:1")
    assert (pair.prompt, pair.answer, pair.text) == (a, b, a + b)
    asked = parse_record({"question": a, "answer": b}, "f:1")
    assert asked.prompt + asked.answer == (
        f"Question: {a.strip()}\nAnswer: {b.strip()}"
    )
    said = [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
    chat = parse_record({"messages": said}, "f:1")
    assert chat.messages == (("user", a), ("assistant", b))
    # The same question and answer overlap in whichever form they stand.
    assert normalised(asked.text) == normalised(chat.text)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"txt": "a"}, r"unknown field 'txt' \(did you mean 'text'\?\)"),
        ({"text": "a", "source": "b"}, "unknown field 'source'"),
        ({"promt": "a", "answer": "b"}, "did you mean 'prompt'"),
        ({"prompt": "a"}, "fields prompt make no record"),
        ({"text": "a", "answer": "b"}, "fields answer, text make no record"),
        ({}, "fields none make no record"),
        ({"id": "a"}, "make no record"),
        (["a"], "a record is a JSON object, got list"),
        ({"text": 3}, "text must be a string, got int"),
        ({"text": None}, "fields none make no record .null counts as left out"),
        ({"text": " \n"}, "text is empty"),
        ({"prompt": "a", "answer": ""}, "answer is empty"),
        ({"text": "a", "id": [1]}, "id must be"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": []}, "no assistant turn"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"messages": [{"role": "asistant", "content": "a"}]}, "mean 'assistant'"),
        ({"messages": [{"role": "user"}]}, "message 1 must have the fields role and"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "message 1 is empty"),
    ],
)
def test_a_bad_record_is_refused_by_file_line_and_field(tmp_path, row, problem):
    path = write(tmp_path / "facts.jsonl", {"text": "good"}, row)
    with pytest.raises(ValueError, match=problem) as error:
        records.read_source(path)
    assert "facts.jsonl:2: " in str(error.value)


@given(st.text(min_size=1, max_size=8).filter(lambda name: name not in FIELDS))
def test_no_unknown_field_passes(name):
    with pytest.raises(ValueError, match="unknown field"):
        parse_record({"text": "a", name: "b"}, "f:1")


def test_every_bad_line_is_counted(tmp_path):
    bad = [b"{'text': 1}", b'{"text": "cut', b'"just text"', b"\xff\xfe", b"null"]
    path = write(tmp_path / "a.jsonl", {"text": "good"}, b"", *bad, *bad)
    with pytest.raises(ValueError, match="10 bad rows") as error:
        records.read_source(path)
    said = str(error.value)
    assert f"{path}:3: not valid JSON" in said
    assert f"{path}:6: not UTF-8" in said
    assert f"{path}:8" not in said
    assert "and 5 more" in said


def test_blank_lines_byte_order_marks_and_line_separators_are_no_trouble(tmp_path):
    text = "one\u2028line\x85still the same"
    line = json.dumps({"text": text}, ensure_ascii=False).encode()
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + line + b"\r", b"  ", line, b"")
    read = records.read_source(path)
    assert [r.text for r in read] == [text, text]
    assert [r.origin for r in read] == [f"{path}:1", f"{path}:3"]


def test_fields_can_be_chosen_and_renamed(tmp_path):
    row = {"instruction": "Say hi.", "output": " Hi.", "stars": 5}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(ValueError, match=f"name them: {path}#text"):
        records.read_source(path)
    (record,) = records.read_source(f"{path}#prompt=instruction+answer=output")
    assert (record.prompt, record.answer) == ("Say hi.", " Hi.")
    with pytest.raises(ValueError, match="no field 'promt' .*'prompt'"):
        records.read_source(f"{path}#promt=instruction")
    with pytest.raises(ValueError, match="fields none make no record"):
        records.read_source(f"{path}#text")


def test_a_role_mixes_sources(tmp_path):
    one = write(tmp_path / "one.jsonl", {"text": "a"})
    two = write(tmp_path / "two.jsonl", {"prompt": "b", "answer": " c"})
    read = records.read_role(f"{one}, {two},embedded:obsolete", "update")
    assert [r.text for r in read[:2]] == ["a", "b c"]
    assert read[2].origin == "embedded:obsolete:1"
    assert len(read) >= 2 + 119


@pytest.mark.parametrize("empty", ["", " , "])
def test_an_empty_role_says_how_to_fill_it(empty):
    with pytest.raises(ValueError, match=r"--config.data.retain=texts.jsonl"):
        records.read_role(empty, "retain")


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        records.read_source(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="has no records"):
        records.read_source(write(tmp_path / "empty.jsonl", b"", b" "))
    for source in ("facts.csv", "gopher:facts", str(tmp_path)):
        with pytest.raises(ValueError, match="not understood"):
            records.read_source(source)
    with pytest.raises(ValueError, match="names nothing after hf:"):
        records.read_source("hf:")


@settings(max_examples=30)
@given(words)
def test_overlap_is_found_whatever_the_case_and_spacing(text):
    kept = [
        parse_record({"text": "something else"}, "retain.jsonl:1"),
        parse_record({"text": f"  {text}\n"}, "retain.jsonl:2"),
    ]
    spaced = "\t".join(text.split(" "))
    gone = [parse_record({"text": f"{spaced} "}, "unlearn.jsonl:9")]
    with pytest.raises(ValueError, match="1 texts are in both") as error:
        records.check_overlap(gone, kept)
    assert "unlearn.jsonl:9 = retain.jsonl:2" in str(error.value)
    records.check_overlap(gone, kept[:1])


@given(st.text(max_size=40))
def test_normalised_text_has_no_outer_or_double_space(text):
    assert normalised(text) == " ".join(normalised(text).split())
    assert normalised(f" {text}\u3000") == normalised(text)
