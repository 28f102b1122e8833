# SPDX-License-Identifier: Apache-2.0
"""Attacks that a run tries on its own finished model."""

import pytest
import subspace_run_cases
from settings_cases import settings_of

from jax_surgery import attacks
from jax_surgery.data.alternatives import Choice
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.models.model import Model
from jax_surgery.report import attack as attack_report
from jax_surgery.report import page
from jax_surgery.runs import asked, own_attacks
from jax_surgery.runs.by_tasks import ByTasks

HOW = Probe("", 32, chat="never")


def questions(group, count):
    return [
        Question(
            f"{group}-{i}", group, "trained", f"the number {i} is", (" 1", " 2"), 0
        )
        for i in range(count)
    ]


def test_questions_are_those_of_what_is_unlearned():
    given = asked.load_questions("embedded")
    found = own_attacks.of_questions("embedded", given)
    assert {q.group for q in found} == {"obsolete", "problematic"}
    assert len(found) == sum(q.group in ("obsolete", "problematic") for q in given)
    own = [*questions("forget", 2), *questions("retain", 2), *questions("unlearn", 1)]
    assert own_attacks.of_questions("mine.jsonl", own) == [*own[:2], own[-1]]


def test_records_to_unlearn_are_asked_with_their_alternatives():
    def choice(group, *answers):
        rows = [{"question": "Where is Oslo?", "answer": answer} for answer in answers]
        return Choice(group, tuple(parse_record(row, "") for row in rows))

    chosen = [choice("unlearn", "Norway", "Spain"), choice("update", "Peru", "Norway")]
    [question] = own_attacks.of_choices(chosen)
    assert question.prompt == "Where is Oslo?"
    assert [option.strip() for option in question.options] == ["Norway", "Spain"]
    assert question.answer == 0


def test_each_try_is_asked_and_drawn_and_judged(tiny_model, monkeypatch):
    monkeypatch.setattr(own_attacks, "QUESTIONS", 6)
    model = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    chosen = attacks.parse_all("blocks:parts=layer;quantisation:formats=int4")
    given = questions("forget", 20)
    mounted = own_attacks.prepared(given, chosen, [], 0, HOW)
    assert mounted
    found = mounted.mount(model)
    assert [attack["attack"] for attack in found["attacks"]] == [
        one.spec for one in chosen
    ]
    labels = [point["label"] for a in found["attacks"] for point in a["curve"]]
    layers = model.config.num_layers
    assert labels == [
        "",
        *(f"layer {i + 1} without both" for i in range(layers)),
        "",
        "in int4",
    ]
    score = found["attacks"][0]["curve"][0]["groups"]["forget"]["multiple_choice"]
    assert score["n"] == 6 and score["reference"] == 0.5
    assert found["verdict"]["tries"] == layers + 1
    shown = attack_report.with_attacks(
        page.Page(title="t", rows=[], settings={}, headlines=["next"]), found
    )
    verdict, following = shown["headlines"]
    assert verdict.startswith("What was to go is ") and following == "next"
    assert len(shown["figures"]) == 2
    text = page.render(shown)
    assert "layer 1 without both" in text and "in int4" in text


def test_where_nothing_can_be_asked_nothing_is_tried():
    chosen = attacks.parse_all("blocks")
    assert own_attacks.prepared([], chosen, [], 0, HOW) is None
    assert own_attacks.prepared(questions("forget", 2), [], [], 0, HOW) is None
    with pytest.raises(ValueError, match="names 'blocks' twice"):
        attacks.parse_all("blocks; blocks")
    with pytest.raises(ValueError, match="config.attacks='block' is not known"):
        attacks.parse_all("block", "config.attacks")


def test_tasks_that_were_removed_are_asked_as_they_are_scored(tmp_path):
    """Here nothing is removed, and they are all there."""
    tasks = {
        "source": subspace_run_cases.tasks_file(tmp_path),
        "targets": "dict_a,quiz",
    }
    fields = {
        "tasks": tasks,
        "attacks": "blocks:parts=layer,last=1;hints:shots=1;way_back",
    }
    case = ByTasks(settings_of("unlearn", fields))
    model = case.load()
    found = case.attack(model)
    # The model before is not at hand here.
    assert [one["attack"] for one in found["attacks"]] == [
        "blocks:parts=layer,last=1",
        "hints:shots=1",
    ]
    assert found["verdict"]["verdict"] == "still there"
    before = found["attacks"][0]["curve"][0]["groups"]
    own = case.work.texts["dict_a"].probe
    assert before["dict_a"]["answer_accuracy"]["reference"] == own.known_chance
    assert before["quiz"]["multiple_choice"]["reference"] == pytest.approx(0.25)
    assert {one["group"] for one in found["excess"]} == {"dict_a", "quiz"}
    settings = settings_of("unlearn", fields | {"attacks": ""})
    case = ByTasks(settings)
    case.load()
    assert case.attack(model) == {}
    # What was added is not attacked.
    case.settings = settings_of("learn", fields)
    assert case.attack(model) == {}
