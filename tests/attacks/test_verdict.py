# SPDX-License-Identifier: Apache-2.0
"""What attacks say of a model."""

import numpy as np
import pytest

from jax_surgery.attacks.verdict import Attacked, sees_from, verdict
from jax_surgery.metrics.intervals import clustered_share

N = 400


def point(value, label="", steps=0, group="gone", metric="multiple_choice", n=N):
    score = {"value": value, "n": n, "reference": 0.25}
    return {"label": label, "steps": steps, "groups": {group: {metric: score}}}


def test_what_no_attack_brings_back_is_removed():
    curve = [point(0.26), point(0.28, "a", 1), point(0.22, "b", 2)]
    found = verdict({"blocks": Attacked(curve)})
    assert found["verdict"] == "removed" and found["tries"] == 2
    assert "none of 2 tries" in found["why"] and "28%" in found["why"]
    worst = found["worst"]["gone"]
    assert (worst["label"], worst["attack"]) == ("a", "blocks")
    assert worst["above"] == pytest.approx(0.03)


def test_what_an_attack_brings_back_is_suppressed_and_else_it_is_still_there():
    tries = [point(0.27, "a", 1), point(0.7, "no last MLP", 2)]
    found = verdict({"x": Attacked([point(0.26), *tries])})
    assert found["verdict"] == "suppressed"
    assert found["why"] == (
        "no last MLP: 70% of 400 answers about 'gone' are right, 25% by chance"
    )
    found = verdict({"x": Attacked([point(0.6), *tries])})
    assert found["verdict"] == "still there" and "60%" in found["why"]


def test_a_model_that_never_knew_may_gain_by_an_attack_too():
    """It learns how answers look from the text that the adversary has."""
    curve = [point(0.25), point(0.5, steps=20)]
    learns = [point(0.25), point(0.48, steps=20)]
    other = [point(0.25), point(0.48, "elsewhere", steps=20)]
    of = lambda reference: verdict({"x": Attacked(curve, reference)})["verdict"]
    assert [of(()), of(learns), of(other)] == ["suppressed", "removed", "suppressed"]
    known = verdict({"x": Attacked([point(0.9)], [point(0.3)])})
    assert known["why"].endswith("are right, 30% of a model that never knew")


def test_many_tries_find_one_that_is_lucky():
    """35 % of 100 is likely among a hundred tries of a fair guess, and not in one."""
    few = [point(0.25, n=100), point(0.36, "a", 1, n=100)]
    many = [*few, *(point(0.25, f"b{i}", i + 2, n=100) for i in range(99))]
    found = [verdict({"x": Attacked(points)})["verdict"] for points in (few, many)]
    assert found == ["suppressed", "removed"]


def test_few_answers_say_what_they_cannot_show():
    points = [point(0.25, n=12), point(0.33, "a", 1, n=12)]
    found = verdict({"x": Attacked(points)})
    # 6 of 12 are the first whose interval lies above chance (Wilson, 0.254).
    assert found["verdict"] == "removed" and "less than 25% above" in found["why"]
    many = verdict({"x": Attacked([point(0.25), point(0.26, "a", 1)])})
    assert "So few" not in many["why"]


def test_what_has_no_chance_or_is_no_share_is_not_judged():
    assert verdict({"x": Attacked([point(1.0, metric="nats_per_token")])}) == {}
    alone = point(0.9)
    alone["groups"]["gone"]["multiple_choice"]["reference"] = None
    assert verdict({"x": Attacked([alone])}) == {}
    assert verdict({}) == {}


def test_answers_about_one_person_count_together():
    """36 % of 400 answers say something of 400 people, and nothing of 20."""
    rng = np.random.default_rng(0)
    found = []
    for people in (400, 20):
        share = rng.permutation(np.arange(people) < 0.36 * people)
        counts = np.full(people, 400 // people)
        interval = clustered_share(share * counts, counts)
        high = point(0.36, "a", 1)
        score = high["groups"]["gone"]["multiple_choice"]
        score |= {"value": float(share.mean()), "interval": interval}
        found.append(verdict({"x": Attacked([point(0.25), high])}))
    assert [one["verdict"] for one in found] == ["suppressed", "removed"]
    assert found[1]["worst"]["gone"]["independent"] < 25
    # A verdict of an earlier release has no such number.
    del found[1]["worst"]["gone"]["independent"]
    assert sees_from(found[1]) < sees_from({"worst": {}} | found[1] | {"tries": 9})
