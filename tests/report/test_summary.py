# SPDX-License-Identifier: Apache-2.0
"""The line at the top of a page: what it answers for each kind of run, and on what."""

import pytest
from report_cases import TASKS
from run_results import asked, attacked, of_questions

from jax_surgery.report import standing, summary

FEW = 8


def answers(results: dict) -> list[str]:
    return [one.answer for one in summary.of(results)]


def why(results: dict, question: str) -> str:
    return {one.question: one.why for one in summary.of(results)}[question]


def test_a_run_that_did_what_it_was_asked():
    found = of_questions(**attacked("removed"))
    assert answers(found) == ["yes", "yes", "yes", "yes"]
    said = summary.of(found)
    assert [one.question for one in said] == [
        "Forgotten",
        "Learned",
        "Retained",
        "Survives attacks",
    ]
    assert str(said[0]) == (
        "Forgotten: yes (26.0 % of 1,000 answers right, chance 25 %, before 100.0 %)"
    )
    assert why(found, "Survives attacks") == "none of 12 tries brings it back"


@pytest.mark.parametrize(
    "score, answer",
    [(0.25, "yes"), (0.29, "yes"), (0.5, "partly"), (0.7, "no"), (1.0, "no")],
)
def test_forgotten_is_what_is_at_chance(score, answer):
    assert answers(of_questions(forgotten=score))[0] == answer


def test_a_model_that_avoids_the_answer_has_not_forgotten_it():
    found = of_questions(forgotten=0.02)
    assert answers(found)[0] == "partly"
    assert "it knows what to avoid" in why(found, "Forgotten")


def test_few_answers_say_nothing_of_chance():
    found = of_questions(forgotten=0.25, n=FEW)
    assert answers(found)[0] == "unclear"
    assert "25.0 % of 8" in why(found, "Forgotten")
    assert why(found, "Forgotten").endswith("too few to tell")


@pytest.mark.parametrize(
    "score, answer", [(0.96, "yes"), (0.7, "partly"), (0.5, "no"), (0.26, "no")]
)
def test_learned_is_what_is_right_and_was_not(score, answer):
    assert answers(of_questions(learned=score))[1] == answer


@pytest.mark.parametrize(
    "score, answer", [(0.96, "yes"), (0.94, "partly"), (0.6, "no"), (0.25, "no")]
)
def test_retained_is_what_is_right_as_before(score, answer):
    assert answers(of_questions(retained=score))[2] == answer


def test_the_worst_of_several_groups_decides():
    found = of_questions()
    for end, score in (("before", 1.0), ("after", 0.6)):
        found[end]["older"] = asked(score)
    found["group_roles"]["older"] = "unlearn"
    assert answers(found)[0] == "partly"
    assert why(found, "Forgotten").startswith("worst of 2, older: 60.0 %")


@pytest.mark.parametrize(
    "verdict, said",
    [
        (attacked("suppressed"), "70 % of 240 answers about old are right after layer 2"),
        (attacked("suppressed", label="", attack="relearning:steps=20", steps=20),
         "after 20 steps of relearning"),
        (attacked("still there"), "without any attack"),
    ],
)  # fmt: skip
def test_what_attacks_bring_back_does_not_survive_them(verdict, said):
    found = of_questions(**verdict)
    assert answers(found)[3] == "no"
    assert said in why(found, "Survives attacks")


def test_what_was_not_measured_is_said_so():
    assert answers(of_questions())[3] == "not measured"
    assert answers(of_questions(verdict={}, attacks=[]))[3] == "unclear"
    few = of_questions(**attacked("removed", value=0.25, n=3))
    assert answers(few)[3] == "unclear"
    assert "so few answers show nothing" in why(few, "Survives attacks")
    nothing = attacked("removed")
    nothing["verdict"]["tries"] = 0
    assert answers(of_questions(**nothing))[3] == "not measured"
    found = of_questions()
    del found["roles"]["update"], found["before"]["new"], found["after"]["new"]
    assert answers(found)[1] == "not asked"


def test_text_that_was_trained_on_says_little():
    """Its tokens carry knowledge and much else: only an end says something."""
    found = of_questions(before={}, after={})
    assert answers(found)[:3] == ["no", "no", "yes"]  # nothing has changed
    for role, nats, recalled in (
        ("unlearn", 5.0, 0.1),
        ("update", 0.5, 0.7),
        ("retain", 1.05, 0.5),
    ):
        entry = {"nll_per_token": nats, "memorised": recalled, "tokens": 100}
        found["roles"][role]["after"] = entry
    assert answers(found)[:3] == ["unclear", "unclear", "partly"]
    assert "5.000 nats per token, before 1.000" in why(found, "Forgotten")
    found["roles"]["update"]["after"] = entry | {
        "nll_per_token": 0.1,
        "memorised": 0.97,
    }
    found["roles"]["retain"]["after"] = entry | {"nll_per_token": 1.9}
    assert answers(found)[1:3] == ["yes", "no"]


def test_metrics_without_chance_are_unclear_where_something_was_forgotten():
    before = {"n": 40, "rouge_l": 0.9, "rouge_l_interval": [0.8, 1.0]}
    after = {"n": 40, "rouge_l": 0.3, "rouge_l_interval": [0.2, 0.4]}
    nats = {"nats_per_token": 1.0, "nats_per_token_interval": [0.9, 1.1]}
    found = of_questions(
        before={"old": before | nats, "rest": before | nats},
        after={"old": after | nats, "rest": before | nats},
    )
    assert answers(found)[:3] == ["unclear", "no", "yes"]
    assert why(found, "Forgotten") == (
        "rouge l 30.0 %, before 90.0 %, what a model scores that never knew is not known"
    )
    found["after"]["old"] = before
    assert answers(found)[0] == "no"
    for end in ("before", "after"):  # of a metric that has a chance
        found[end]["old"] = found[end]["old"] | {"rouge_l_reference": 0.28}
    found["after"]["old"] = after | {"rouge_l_reference": 0.28}
    assert answers(found)[0] == "yes"


def test_tasks_removed_and_added():
    found = {"tasks": TASKS, "settings": {}}
    assert answers(found) == ["yes", "not asked", "yes", "not measured"]
    assert why(found, "Retained").startswith("worst of 3, sub: a score of 97.0 %")
    added = {n: t | {"goal": "up"} if n == "add" else t for n, t in TASKS.items()}
    added["add"] = added["add"] | {"before": TASKS["add"]["after"]}
    assert answers({"tasks": added}) == ["not asked", "no", "yes", "not asked"]


SAYS = {"count": 9, "n": 10, "share": 0.9, "interval": [0.6, 0.98]}


def free_form(after: int, choice: float = 0.25) -> dict:
    one = {"share": 1.0, "interval": [0.76, 1.0], "n": 12, "count": 12, "chance": 0.25}
    other = one | {"share": choice, "count": round(12 * choice), "interval": [0.1, 0.5]}
    ends = {"before": {"choice": one}, "after": {"choice": other}}
    return {
        "facts": {
            "unlearn": {"n": 10, "before": 10, "after": after},
            "update": {"n": 0, "before": 0, "after": 0},
        },
        "groups": {"unlearn": {"kind": "unlearn"} | ends},
        "kept": {"kin": SAYS | {"count": 48, "n": 50, "share": 0.96}},
        "texts": {"general": {"before": 3.0, "after": 3.02}},
    }


def test_what_a_chat_model_says_by_itself():
    found = of_questions(before={}, after={}, free_form=free_form(0))
    del found["roles"]["update"]
    # Text that is held out costs more than is usual.
    assert answers(found) == ["yes", "not asked", "partly", "not measured"]
    assert "0 of 10 facts said, before 10" in why(found, "Forgotten")
    assert "general text: 3.020 nats per token" in why(found, "Retained")
    found["free_form"]["texts"] = {}
    assert answers(found)[2] == "yes"
    assert why(found, "Retained") == "48 of 50 answers that it gave are kept"
    assert answers(found | {"free_form": free_form(3)})[0] == "partly"
    assert answers(found | {"free_form": free_form(9)})[0] == "no"
    # It does not say the facts, and ranks them first.
    knows = free_form(0, choice=0.75)
    knows["groups"]["unlearn"]["after"]["choice"]["interval"] = [0.47, 0.91]
    assert answers(found | {"free_form": knows})[0] == "no"


@pytest.mark.parametrize("kl, answer", [(0.019, "yes"), (0.03, "partly")])
def test_a_budget_says_what_is_retained(kl, answer):
    automatic = {"budget": 0.02, "step": 6, "curve": [{"step": 6, "kl": kl}]}
    found = of_questions(before={}, after={}, automatic=automatic)
    assert answers(found)[2] == answer
    assert f"moved by {kl:g} of 0.02 nats" in why(found, "Retained")


def test_an_evaluation_says_what_a_model_knows():
    found = {
        "model": "m",
        "evaluation": {"old": asked(0.26), "new": asked(0.9), "rest": asked(0.99)},
        "group_roles": {"old": "unlearn", "new": "update", "rest": "retain"},
    }
    said = summary.of(found)
    assert [one.answer for one in said] == [
        "not known",
        "known",
        "known",
        "not measured",
    ]
    assert said[0].question == "To be forgotten"
    assert [one.done for one in standing.evidence(found)] == [None] * 3
    assert answers(found | {"evaluation": {}})[:3] == ["not measured"] * 3


@pytest.mark.parametrize(
    "verdict, forgotten, survives",
    [
        ("removed", "yes", "yes"),
        ("suppressed", "yes", "no"),
        ("still there", "no", "no"),
    ],
)
def test_a_run_that_only_attacks(verdict, forgotten, survives):
    found = {"model": "m"} | attacked(verdict)
    assert answers(found) == [forgotten, "not measured", "not measured", survives]
    assert answers(found | {"verdict": {}}) == [
        "unclear",
        "not measured",
        "not measured",
        "unclear",
    ]


def test_other_runs_have_no_such_line():
    assert summary.of({"directory": "model", "evaluation_of": {}}) == []


def test_groups_of_a_role_are_pooled_with_their_intervals():
    found = of_questions()
    for end, score in (("before", 1.0), ("after", 0.5)):
        found[end]["older"] = asked(score, 3000)
    found["group_roles"]["older"] = "unlearn"
    pooled = standing.pooled(standing.evidence(found), "unlearn")
    assert pooled.after.n == 4000
    assert pooled.after.value == pytest.approx((0.26 + 3 * 0.5) / 4)
    assert pooled.done == pytest.approx(1 - (pooled.after.value - 0.25) / 0.75)
    low, high = pooled.interval
    assert low < pooled.done < high
    # As wide as that of so many answers together.
    assert high - low == pytest.approx(
        2 * 1.96 * (0.246 / 4000) ** 0.5 / 0.75, rel=0.05
    )
    assert standing.pooled([], "unlearn") is None
