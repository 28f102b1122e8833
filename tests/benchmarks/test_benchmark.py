# SPDX-License-Identifier: Apache-2.0
"""The embedded world: sizes, determinism, and what its questions promise."""

import collections
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from jax_surgery.benchmarks import embedded as benchmark
from jax_surgery.benchmarks.embedded import general, vocabulary, world
from jax_surgery.data.questions import Question, read_questions

TRAINING_SETS = ("obsolete", "problematic", "update", "retain", "general")


@pytest.fixture(scope="module")
def questions():
    return benchmark.questions()


def test_sizes_follow_the_paper():
    people = world.people()
    assert len(people["obsolete"]) == len(people["update"]) == 119
    assert len(people["problematic"]) == 119
    assert len(people["retain"]) >= 1000


def test_people_are_distinct_and_replacements_change_every_fact():
    people = world.people()
    names = [p.name for g in ("obsolete", "problematic", "retain") for p in people[g]]
    assert len(set(names)) == len(names)
    for old, new in zip(people["obsolete"], people["update"], strict=True):
        assert old.name == new.name
        assert all(old.facts[a] != new.facts[a] for a in vocabulary.ATTRIBUTES)


def test_a_biography_states_every_fact_and_each_is_worded_differently():
    for group in ("obsolete", "update", "retain"):
        person = world.people()[group][3]
        seen = collections.defaultdict(list)
        for number in range(world.BIOGRAPHIES):
            sentences = world.biography(person, group, number)
            assert sentences[0].stem.count(person.name) == 1
            for sentence in sentences:
                assert sentence.value == person.facts[sentence.attribute]
                seen[sentence.attribute].append(sentence.wording)
        for attribute in vocabulary.ATTRIBUTES:
            assert len(set(seen[attribute])) == world.BIOGRAPHIES


def test_unseen_wordings_never_occur_in_training_text(questions):
    holding = collections.defaultdict(list)  # texts by their words
    for text in (t for name in TRAINING_SETS for t in benchmark.texts(name)):
        for word in set(text.split()):
            holding[word].append(text)

    def occurs(part: str) -> bool:
        """Whether a text has it: one of those that have its rarest word inside."""
        inside = part.split()[1:-1]
        return any(part in t for t in min((holding[w] for w in inside), key=len))

    for question in questions:
        stated = question.prompt + question.options[question.answer]
        if question.wording == "unseen":
            assert not occurs(question.prompt), question
        else:
            assert occurs(stated), question


def test_questions_are_balanced_and_complete(questions):
    count = collections.Counter((q.group, q.wording) for q in questions)
    people = {"obsolete": 119, "problematic": 119, "update": 119, "retain": 1000}
    for wording in ("trained", "unseen"):
        for group, number in people.items():
            assert count[group, wording] == number * len(vocabulary.ATTRIBUTES)
        assert count["general", wording] == len(general.general_facts())
    place = collections.Counter(q.answer for q in questions)
    for index in range(4):
        assert 0.22 < place[index] / len(questions) < 0.28
    assert len({q.id for q in questions}) == len(questions)


def test_no_option_is_the_fact_of_the_other_version(questions):
    people = world.people()
    other = {"obsolete": people["update"], "update": people["obsolete"]}
    for question in questions:
        if question.group in other:
            _, index, attribute, _ = question.id.split("/")
            value = other[question.group][int(index)].facts[attribute]
            assert f" {value}" not in question.options


def digest() -> str:
    """Of all texts and questions."""
    world = [benchmark.texts(name) for name in benchmark.SETS], benchmark.questions()
    return hashlib.sha256(repr(world).encode()).hexdigest()


@pytest.mark.slow
def test_the_world_is_the_same_in_another_process():
    """Strings hash otherwise there: here by a random seed, or the one that is given."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    done = subprocess.run(
        [sys.executable, "-c", "import test_benchmark; print(test_benchmark.digest())"],
        env={
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": ":".join([str(pathlib.Path(__file__).parent), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest()


def test_general_facts_are_unambiguous():
    facts = general.general_facts()
    keys = [(f.relation, f.thing) for f in facts]
    assert len(set(keys)) == len(keys)
    for fact in facts:
        assert fact.value not in fact.others
        assert len(set(fact.others)) >= 3


def test_an_unknown_set_names_the_sets():
    with pytest.raises(ValueError, match="obsolete, problematic, update"):
        benchmark.load("retained")


def test_questions_file_round_trip(tmp_path, questions):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(q.record()) for q in questions[:20]))
    assert tuple(read_questions(str(path))) == questions[:20]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "questions.jsonl:2: not valid JSON"),
        ('{"id": "x"}', "questions.jsonl:2: a question has exactly the fields"),
        (
            (
                '{"id": "x", "group": "g", "wording": "seen", "prompt": "p", '
                '"options": ["a", "b"], "answer": 0}'
            ),
            "use 'trained' or 'unseen'",
        ),
        (
            (
                '{"id": "x", "group": "g", "wording": "unseen", "prompt": "p", '
                '"options": ["a", "b"], "answer": 2}'
            ),
            "answer=2",
        ),
        (
            (
                '{"id": "x", "group": "g", "wording": "unseen", "prompt": "p", '
                '"options": ["a", "a"], "answer": 0}'
            ),
            "all different",
        ),
        (
            (
                '{"id": 3, "group": "g", "wording": "unseen", "prompt": "p", '
                '"options": ["a", "b"], "answer": 0}'
            ),
            "are strings",
        ),
    ],
)
def test_a_malformed_question_is_named(tmp_path, line, message):
    good = Question("i", "g", "trained", "p", (" a", " b"), 0)
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(good.record()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_questions(str(path))


def test_a_question_may_say_what_it_is_about(tmp_path):
    bare = Question("i", "g", "trained", "p", (" a", " b"), 0)
    about = Question("j", "g", "trained", "p", (" a", " b"), 0, about="ada")
    assert "about" not in bare.record()
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(q.record()) + "\n" for q in (bare, about)))
    assert read_questions(str(path)) == (bare, about)
    path.write_text(json.dumps(about.record() | {"about": 3}) + "\n")
    with pytest.raises(ValueError, match="about are strings"):
        read_questions(str(path))


def test_a_line_separator_in_a_question_breaks_no_line(tmp_path):
    """A JSON string may hold U+2028 as it is, and a file may begin with a mark."""
    question = Question("i", "g", "trained", "one\u2028two\x85", (" a", " b"), 0)
    line = json.dumps(question.record(), ensure_ascii=False)
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert read_questions(str(path)) == (question,)
