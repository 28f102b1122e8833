# SPDX-License-Identifier: Apache-2.0
"""What a model writes, as a whole: every kind, seeded, and read back from the run."""

import dataclasses
import json

import chat_templates
import numpy as np
import pytest
from completion_cases import ANSWERS

from jax_surgery.config import build
from jax_surgery.data import general
from jax_surgery.data.forms import parse_record
from jax_surgery.data.roles import RoleRecords
from jax_surgery.methods.automatic import (
    completed,
    completion,
    general_text,
    neighbours,
)
from jax_surgery.methods.automatic.completion import Completion, complete
from jax_surgery.methods.automatic.writer import Written
from jax_surgery.models.model import Model

FEW = Completion(
    neighbours=12,
    named=8,
    knowledge=4,
    chats=4,
    texts=3,
    passages=5,
    answer_tokens=4,
    chat_tokens=4,
    text_tokens=4,
)


def role_records(**rows) -> RoleRecords:
    found = {
        role: [parse_record(row, f"{role}:{n}") for n, row in enumerate(given)]
        for role, given in rows.items()
    }
    return RoleRecords(found, found.get("retain", []))


QUESTIONS = role_records(
    unlearn=[{"question": q, "answer": a} for q, a in ANSWERS.items()],
    update=[
        {"question": q, "answer": "Luxor"} for q, a in ANSWERS.items() if a == "Cairo"
    ],
    retain=[{"text": "the number 3 is 8 and the number 4 is 2"}],
)


class FakeWriter:
    """Says what a test needs of each kind; stands in for the model."""

    def __init__(self, model, seed, watch):
        self.model, self.tokenizer = model, model.tokenizer
        self.seed, self.watch = seed, watch

    def rng(self, stage):
        return np.random.default_rng([self.seed, len(stage)])

    def plain(self, text):
        return self.tokenizer(text)["input_ids"]

    learned = plain

    def greedy(self, prompts, tokens):
        self.watch(len(prompts))
        return [Written("The answer is Cairo, of old.", True) for _ in prompts]

    def sampled(self, prompts, tokens, stage, *, samples=1, **_):
        said = {
            "user turns": "How long is mile {}?",
            "answers": " It is {} steps.\nOr more. ",
            "free text": " went on for {} days.",
        }
        count = len(prompts) * samples
        self.watch(count)
        line = said.get(stage, " land number {}?")
        return [Written(line.format(i), True) for i in range(count)]


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    """A random one that reads chats."""
    tokenizer = chat_templates.with_template(tiny_model.tokenizer, "chatml")
    return Model(tiny_model.params, tiny_model.config, tokenizer)


@pytest.fixture(scope="module")
def written(model, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "Writer", FakeWriter)
        # A random model knows no language.
        patch.setattr(general_text, "fit", lambda model: general_text.Fit(3.4, 6.6))
        return complete(model, QUESTIONS, FEW, 3, str(folder / "run"))


def test_every_kind_is_written_as_often_as_it_is_asked_for(written):
    retained = ["neighbours", "subjects", "knowledge", "kept", "chat", "text"]
    changed = ["own", "reworded", "sentences", "unlearn_asked", "update_asked"]
    assert list(written.by_kind()) == [*retained, *changed]
    assert list(written.retained()) == retained
    asked = FEW.neighbours + FEW.named
    # So many of each fact.
    wanted = pytest.approx(neighbours.KNOWN * asked, abs=len(set(ANSWERS.values())))
    assert len(written.neighbours) == wanted
    # Of some the model has written the question, others ask of packaged names.
    own = sum("land number" in r.question for r in written.neighbours)
    named = [r.question for r in written.neighbours if "land number" not in r.question]
    names = [name for some in general.names().values() for name in some]
    assert 0 < own <= FEW.neighbours and 0 < len(named) <= FEW.named
    assert all(any(name in question for name in names) for question in named)
    assert len(written.knowledge) == neighbours.KNOWN * FEW.knowledge
    assert {r.question for r in written.knowledge} <= set(general.questions())
    # Of the chats half are the model's own, and none is learned but what it answers.
    turns = [record.messages[0][1] for record in written.chat]
    assert len(turns) == FEW.chats
    assert sum("How long is mile" in turn for turn in turns) == FEW.chats // 2
    assert all(r.said.startswith("It is") for r in written.chat)
    assert sum(r.origin.startswith("written") for r in written.text) == FEW.texts
    assert sum(r.origin.startswith("general") for r in written.text) <= FEW.passages
    # Both answers to each question, in the records' form.
    assert {r.question for r in written.own} == set(ANSWERS)
    assert len(written.own) == 2 * len(ANSWERS)
    cairo = [q for q, a in ANSWERS.items() if a == "Cairo"]
    assert [r.question for r in written.sentences] == cairo
    assert all(r.answer == " The answer is Luxor." for r in written.sentences)


def test_nothing_of_the_packaged_text_is_retained_by_a_model_of_no_language(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(completion, "Writer", FakeWriter)
    found = complete(model, QUESTIONS, FEW, 3, str(tmp_path))
    assert not found.knowledge
    assert not any(r.origin.startswith("general") for r in found.text)
    # Its own continuations of the user's text stay, and its neighbours.
    assert sum(r.origin.startswith("written") for r in found.text) == FEW.texts
    assert found.neighbours
    assert all("land number" in record.question for record in found.neighbours)
    assert "none of it is retained" in capsys.readouterr().out


def test_a_model_writes_the_same_again(model, tmp_path, monkeypatch):
    """A random model, which ends few questions with a question mark."""
    monkeypatch.setattr(neighbours, "ROUNDS", 1)
    few = dataclasses.replace(FEW, neighbours=2, chats=0, texts=0)
    once = complete(model, QUESTIONS, few, 3, str(tmp_path / "1"))
    assert complete(model, QUESTIONS, few, 3, str(tmp_path / "2")) == once
    assert once.own
    other = complete(model, QUESTIONS, few, 4, str(tmp_path / "3"))
    assert other.own != once.own


def test_what_is_there_is_read_and_what_is_damaged_or_stale_is_written_anew(
    model, written, folder, tmp_path, monkeypatch, capsys
):
    file = folder / "run" / completed.FILE
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + sum(map(len, written.by_kind().values()))
    assert json.loads(lines[-1])["kind"] == "sentences"
    again = lambda settings=FEW: complete(model, QUESTIONS, settings, 3, str(tmp_path))
    calls = []
    monkeypatch.setattr(
        completion, "_written", lambda *_: calls.append(1) or completed.nothing()
    )
    (tmp_path / completed.FILE).write_text(file.read_text())
    assert again() == written
    assert not calls
    changed = file.read_text().replace(
        lines[-1], lines[-1].replace("Luxor", "Cairo", 1)
    )
    for text, why in (("\n".join(lines[:-1]), "damaged"), (changed, "damaged")):
        (tmp_path / completed.FILE).write_text(text)
        assert again() == completed.nothing()
        assert why in capsys.readouterr().out
    assert again() == completed.nothing()
    assert len(calls) == 2  # what was written in its place is read
    assert again(dataclasses.replace(FEW, texts=4)) == completed.nothing()
    assert "of another model, data or seed" in capsys.readouterr().out
    assert len(calls) == 3


def test_plain_texts_have_no_questions_and_no_chats(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(completion, "Writer", FakeWriter)
    model = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    texts = [{"text": text} for text in tiny_model.texts]
    records = role_records(unlearn=texts[:2], update=texts[2:3], retain=texts[3:])
    found = complete(model, records, FEW, 3, str(tmp_path))
    assert found.neighbours == found.chat == found.own == found.sentences == []
    assert found.text
    assert not any(record.question for record in found.text)


def test_every_form_of_a_record_survives_the_file(tmp_path):
    rows = [
        {"text": "a\nb\u2028c"},
        {"prompt": "p", "answer": " a", "alternative": " b"},
        {"question": "q?", "answer": "a"},
        {"messages": chat_templates.chat("Hi.", "Oh.", system="Be kind.")},
    ]
    records = [parse_record(row, f"here:{n}") for n, row in enumerate(rows)]
    written = dataclasses.replace(completed.nothing(), chat=records, own=records[:1])
    file = completed.epath.Path(tmp_path) / completed.FILE
    completed.write(file, "key", written)
    assert completed.read(file, "key") == written
    assert completed.read(file, "another") is None


def test_settings_say_what_is_right():
    with pytest.raises(ValueError, match="completion.chats=-1; use 0 or more"):
        build(Completion, {"chats": -1})
    with pytest.raises(ValueError, match="completion.text_tokens=0; use 1 or more"):
        Completion(text_tokens=0)
    nothing = Completion(neighbours=0, chats=0, texts=0, passages=0)
    assert nothing.neighbours == 0
