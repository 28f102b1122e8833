# SPDX-License-Identifier: Apache-2.0
"""Paraphrases and descriptions beside a record: of a file, and of the embedded world."""

import json

import pytest

from jax_surgery.benchmarks import embedded
from jax_surgery.benchmarks.embedded import vocabulary, world
from jax_surgery.data import enriched
from jax_surgery.data.records import read_source

# The longest first: one may end in another.
VALUES = sorted(
    {value for values in vocabulary.VALUES.values() for value in values}, key=len
)[::-1]
ROW = {
    "question": "Who leads X?",
    "answer": "Ada",
    "paraphrases": ["X is led by whom?", "Who is X's head?"],
    "descriptions": ["X was founded in 1990. Its leader is Ada."],
}


def test_a_row_gives_its_paraphrases_and_descriptions_too(tmp_path):
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps({"text": "plain"}) + "\n")
    main, one, two, description, plain = read_source(str(file))
    assert [r.question for r in (main, one, two)] == [
        ROW["question"],
        *ROW["paraphrases"],
    ]
    assert main.answer == one.answer == two.answer == " Ada"
    assert (description.text, plain.text) == (ROW["descriptions"][0], "plain")
    assert two.origin == f"{file}:1, paraphrase 2"
    chosen = read_source(f"{file}#question+answer+paraphrases+text")
    assert [r.text for r in chosen][-1] == "plain" and len(chosen) == 4


@pytest.mark.parametrize(
    "row, others",
    [
        ({"prompt": "X is led by", "answer": " Ada", "paraphrases": ["X's head is"]}, "X's head is Ada"),
        ({"text": "Ada leads X.", "paraphrases": ["X is led by Ada."]}, "X is led by Ada."),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
             "descriptions": ["It is a."]},
            "It is a.",
        ),
        ({"text": "Ada leads X.", "paraphrases": None, "descriptions": ["X."]}, "X."),
    ],
)  # fmt: skip
def test_every_form_of_a_record_may_have_some(row, others):
    _, other = enriched.parse(row, "here")
    assert other.text == others


@pytest.mark.parametrize(
    "row, words",
    [
        ({"text": "a b", "paraphrases": "b a"}, "paraphrases must be a list of texts, got str"),
        ({"text": "a b", "descriptions": ["", "c"]}, r"descriptions\[0\] is empty"),
        ({"text": "a b", "descriptions": [3]}, r"descriptions\[0\] must be a string, got int"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
             "paraphrases": ["r"]},
            "write a chat in other words as a record of its own",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(row, words):
    with pytest.raises(ValueError, match=words):
        enriched.parse(row, "here")


def test_the_embedded_worlds_grammar_gives_them():
    people = world.people()["update"]
    once = embedded.texts("update_once")
    assert len(once) == len(people) and set(once) <= set(embedded.texts("update"))
    paraphrases = embedded.texts("update_paraphrases")
    for place, person in enumerate(people[:20]):
        own = [t for t in paraphrases if person.name in t]
        told = {f"{sentence.rstrip('.')}." for sentence in once[place].split(". ")}
        assert own and not told & {*own}
        for text in own:
            assert any(value in text for value in person.facts.values())
    retained = {p.name: p for p in world.people()["retain"]}
    descriptions = embedded.texts("update_descriptions")
    beside = embedded.texts("retain_descriptions")
    assert len(set(descriptions)) == len(descriptions) > len(people)
    for text in descriptions[:200]:
        own, other = text.split(". ")[0], text.split(". ")[1]
        value = next(v for v in VALUES if own.endswith(v))
        name = next(name for name in retained if name in other)
        assert value in retained[name].facts.values() and other in beside


def test_unseen_wordings_stay_unseen():
    stems = {
        world.fill(w, p, a, p.name).stem
        for a, wordings in vocabulary.UNSEEN.items()
        for w in wordings
        for p in world.people()["update"][:30]
    }
    for name in ("update_once", "update_paraphrases", "update_descriptions"):
        assert not [t for t in embedded.texts(name)[:600] if any(s in t for s in stems)]
